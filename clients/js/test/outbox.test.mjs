/** The outbox on a scripted network: what it keeps, what it sends, and when. */

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";

import { HASH, Network, answer, quiet, store, until } from "./scripted.mjs";

const offline = () => new TypeError("fetch failed");
const end = { transcriptHash: HASH };

/** The events of `outbox`, as they come. */
function eventsOf(outbox) {
  const events = [];
  for (const type of ["delivered", "rejected"]) {
    outbox.addEventListener(type, ({ item, response, error }) =>
      events.push(`${type} ${item.kind} ${item.body.session_id} ${response?.status ?? error.code}`));
  }
  return events;
}

/** Timers that the test winds; `random`: what the jitter multiplies with. */
function clock(t, random = 1) {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  t.mock.method(Math, "random", () => random);
  return async (ms) => {
    t.mock.timers.tick(ms);
    await quiet();
  };
}

test("nothing is sent before start(), and everything in its order after it", async () => {
  const network = new Network();
  const client = await network.page();
  const events = eventsOf(client.outbox);
  await client.startSession("a");
  await client.startSession("b");
  await client.endSession("a", end);
  await quiet();
  assert.deepEqual(network.sent, []);

  client.outbox.start();
  await until(() => events.length === 3);

  assert.deepEqual(network.sent, ["start a", "start b", "end a"]);
  assert.deepEqual(events, ["delivered start a ok", "delivered start b ok", "delivered end a ok"]);
  assert.deepEqual(client.outbox.pending, []);
  client.outbox.stop();
});

for (const status of [400, 403, 409, 413, 415]) {
  test(`${status} is for good: the item goes, "rejected" is fired, and the next one is sent`, async () => {
    const network = new Network();
    const client = await network.page();
    const events = eventsOf(client.outbox);
    await client.startSession("a");
    await client.endSession("a", end);
    network.script = [status];

    assert.deepEqual(await client.outbox.flush(), { delivered: 1, rejected: 1, pending: 0 });

    assert.deepEqual(events, [`rejected start a code_${status}`, "delivered end a ok"]);
  });
}

const portal = () => new Response("<h1>Pay for Wi-Fi</h1>");

for (const failure of [401, 404, 405, 408, 429, 500, 503, offline(), portal()]) {
  const name = failure.message ?? (failure.status ? "a captive portal's page" : failure);
  test(`${name} keeps the item, with the attempt counted`, async () => {
    const network = new Network();
    const client = await network.page();
    const events = eventsOf(client.outbox);
    await client.startSession("a");
    network.script = [failure];

    assert.deepEqual(await client.outbox.flush(), { delivered: 0, rejected: 0, pending: 1 });

    assert.equal(client.outbox.pending[0].attempts, 1);
    assert.deepEqual(events, []);
    assert.deepEqual(await client.outbox.flush(), { delivered: 1, rejected: 0, pending: 0 });
  });
}

test("an answer about the session that is no 401 rejects no item", async () => {
  const network = new Network();
  const client = await network.page(store(), {
    fetch: (url, init) => (init.method === "GET" && network.blocked ? answer(403) : network.fetch(url, init)),
  });
  await client.startSession("a");
  network.blocked = true;

  assert.deepEqual(await client.outbox.flush(), { delivered: 0, rejected: 0, pending: 1 });
});

test("an item that fails holds back its own session and no other", async () => {
  const network = new Network();
  const client = await network.page();
  await client.startSession("a");
  await client.endSession("a", end);
  await client.startSession("b");
  network.script = [500];

  assert.deepEqual(await client.outbox.flush(), { delivered: 1, rejected: 0, pending: 2 });

  assert.deepEqual(network.sent, ["start a", "start b"]);
});

for (const failure of [offline(), answer(503, {}, { "Retry-After": "2" })]) {
  test(`after ${failure.message ?? "a Retry-After"} the rest is not even tried`, async () => {
    const network = new Network();
    const client = await network.page();
    await client.startSession("a");
    await client.startSession("b");
    network.script = [failure];

    assert.deepEqual(await client.outbox.flush(), { delivered: 0, rejected: 0, pending: 2 });

    assert.deepEqual(network.sent, ["start a"]);
  });
}

test("waits double from one second up to a minute", async (t) => {
  const wind = clock(t);
  const network = new Network();
  const client = await network.page();
  network.script = Array.from({ length: 9 }, offline);
  client.outbox.start();
  await client.startSession("a");
  await quiet();

  for (const [failures, seconds] of [1, 2, 4, 8, 16, 32, 60, 60].entries()) {
    await wind(seconds * 1000 - 1);
    assert.equal(network.sent.length, failures + 1, `before ${seconds} s are over`);
    await wind(1);
    assert.equal(network.sent.length, failures + 2, `after ${seconds} s`);
  }
  client.outbox.stop();
});

test("after a success the waits begin anew", async (t) => {
  const wind = clock(t);
  const network = new Network();
  const client = await network.page();
  network.script = [offline(), offline(), 200, offline()];
  client.outbox.start();
  await client.startSession("a");
  await quiet();
  await wind(1000);
  await wind(2000);
  assert.deepEqual(client.outbox.pending, []);

  await client.startSession("b");
  await quiet();
  await wind(1000);

  assert.deepEqual(client.outbox.pending, []);
  client.outbox.stop();
});

test("the jitter is full: a wait is anything from nothing on", async (t) => {
  const wind = clock(t, 0.25);
  const network = new Network();
  const client = await network.page();
  network.script = [offline()];
  client.outbox.start();
  await client.startSession("a");
  await quiet();

  await wind(249);
  assert.equal(network.sent.length, 1);
  await wind(1);
  assert.equal(network.sent.length, 2);
  client.outbox.stop();
});

test("until a Retry-After is over nothing goes out, neither a new item nor after a sign-in", async (t) => {
  const wind = clock(t, 0);
  const network = new Network();
  const client = await network.page();
  network.script = [answer(429, {}, { "Retry-After": "30" })];
  client.outbox.start();
  await client.startSession("a");
  await quiet();

  await client.startSession("b");
  await client.session();
  await wind(29_999);
  assert.deepEqual(network.sent, ["start a"]);
  await wind(1);
  assert.deepEqual(network.sent, ["start a", "start a", "start b"]);
  await client.startSession("c");
  await quiet();
  assert.equal(network.sent.at(-1), "start c");
  client.outbox.stop();
});

test("a Retry-After of many years does not become a timer of one millisecond", async (t) => {
  const timer = t.mock.method(globalThis, "setTimeout", () => ({}));
  const network = new Network();
  const client = await network.page();
  network.script = [answer(503, {}, { "Retry-After": "99999999999" })];
  client.outbox.start();
  await client.startSession("a");
  await quiet();

  assert.equal(timer.mock.calls.at(-1).arguments[1], 2 ** 31 - 1);
  client.outbox.stop();
});

test("after stop() nothing is sent any more, and no retry is planned", async (t) => {
  const wind = clock(t);
  const network = new Network();
  const client = await network.page();
  network.script = [offline(), offline()];
  client.outbox.start();
  await client.startSession("a");
  await quiet();

  client.outbox.stop();
  await client.startSession("b");
  await wind(3_600_000);

  assert.deepEqual(network.sent, ["start a"]);
});

test("flush() without start() tries once and plans nothing", async (t) => {
  const wind = clock(t);
  const network = new Network();
  const client = await network.page();
  await client.startSession("a");
  network.script = [offline()];

  await client.outbox.flush();
  await wind(3_600_000);

  assert.deepEqual(network.sent, ["start a"]);
});

test("an item that is added while another one is under way follows at once", async () => {
  const network = new Network();
  const client = await network.page();
  client.outbox.start();

  await Promise.all([client.startSession("a"), client.endSession("a", end)]);
  client.outbox.addEventListener("delivered", ({ item }) => item.kind === "end" && client.startSession("b"));
  await until(() => network.sent.length === 3);

  assert.deepEqual(network.sent, ["start a", "end a", "start b"]);
  client.outbox.stop();
});

test("the network's return delivers what waits", async (t) => {
  const wind = clock(t);
  const page = new EventTarget();
  for (const name of ["addEventListener", "removeEventListener"]) {
    globalThis[name] = page[name].bind(page);
    t.after(() => delete globalThis[name]);
  }
  const network = new Network();
  const client = await network.page();
  network.script = [offline()];
  client.outbox.start();
  await client.startSession("a");
  await quiet();

  page.dispatchEvent(new Event("online"));
  await quiet();
  assert.deepEqual(client.outbox.pending, []);

  client.outbox.stop();
  await client.startSession("b");
  page.dispatchEvent(new Event("online"));
  await wind(3_600_000);
  assert.equal(client.outbox.pending.length, 1);
});

test("an outbox that waits does not keep Node alive", async () => {
  const script = `
    import { LumenClient } from ${JSON.stringify(new URL("../lumen-client.mjs", import.meta.url).href)};
    Math.random = () => 1;
    let asked = 0;
    const fetch = async () => {
      if (asked++) throw new TypeError("fetch failed");
      return Response.json({ status: "ok", user_id: "ada" });
    };
    const client = new LumenClient({ fetch });
    await client.session();
    client.outbox.start();
    client.outbox.addEventListener("changed", () => console.log(client.outbox.pending[0].attempts));
    await client.startSession("a");`;

  const run = promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], { timeout: 10_000 });

  assert.equal((await run).stdout, "0\n1\n");
});
