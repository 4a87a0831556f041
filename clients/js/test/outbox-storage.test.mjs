/** The outbox on a scripted network: whose it is, and what becomes of it in good and bad stores. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { LumenClient } from "../lumen-client.mjs";
import { HASH, Network, answer, quiet, store, storesOfTwoProcesses, until } from "./scripted.mjs";

const sessionIds = (client) => client.outbox.pending.map(({ body }) => body.session_id);

test("items of one user are never sent while another is signed in, and are there when the first is back", async () => {
  const network = new Network();
  const client = await network.page();
  await client.startSession("of-ada");

  network.user = "bob";
  await client.session();
  client.outbox.start();
  await client.startSession("of-bob");
  await until(() => network.sent.length === 1);
  await quiet();
  assert.deepEqual(network.sent, ["start of-bob"]);

  network.user = "ada";
  await client.session();
  await until(() => network.sent.length === 2);
  assert.equal(network.sent[1], "start of-ada");
  client.outbox.stop();
});

test("a tab sends nothing when another tab has signed in somebody else, not even in the middle", async () => {
  const network = new Network();
  const client = await network.page();
  for (const id of ["1", "2", "3"]) await client.startSession(id);
  client.outbox.addEventListener("delivered", () => (network.user = "bob"));

  assert.deepEqual(await client.outbox.flush(), { delivered: 1, rejected: 0, pending: 2 });

  assert.deepEqual(network.sent, ["start 1"]);
});

test("a delivery for one user does not go on with the items of the next", async () => {
  const network = new Network();
  network.user = "bob";
  const client = await network.page();
  await client.startSession("of-bob");
  network.user = "ada";
  await client.session();
  await client.startSession("of-ada");
  client.outbox.addEventListener("delivered", () => client.outbox.belongTo("bob"));

  await client.outbox.flush();

  assert.deepEqual(network.sent, ["start of-ada"]);
});

test("a sign-in that has expired is waited for: no timer, and delivery after it", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const network = new Network();
  const client = await network.page();
  client.outbox.start();
  network.user = null;
  await client.endSession("a", { transcriptHash: HASH });
  await quiet();

  const before = network.requests.length;
  t.mock.timers.tick(3_600_000);
  await quiet();
  assert.equal(network.requests.length, before);

  network.user = "ada";
  await client.verify("t");
  await until(() => network.sent.length === 1);
  client.outbox.stop();
});

test("a sign-in while a delivery is being refused with 401 is not overlooked", async () => {
  const network = new Network();
  let refuse;
  const client = await network.page(store(), {
    fetch: (url, init) => {
      const waits = init.method === "POST" && !refuse;
      return waits ? new Promise((resolve) => (refuse = () => resolve(answer(401)))) : network.fetch(url, init);
    },
  });
  client.outbox.start();
  await client.startSession("a");
  await until(() => refuse);

  await client.session();
  refuse();
  await until(() => network.sent.length === 1);

  assert.deepEqual(client.outbox.pending, []);
  client.outbox.stop();
});

test("after a reload without a network the user is known, and old and new items are delivered later", async () => {
  const network = new Network();
  const storage = store();
  await (await network.page(storage)).startSession("before");

  const client = new LumenClient({ fetch: network.fetch, storage });
  await client.endSession("before", { transcriptHash: HASH });
  client.outbox.start();
  await until(() => network.sent.length === 2);

  assert.deepEqual(network.sent, ["start before", "end before"]);
  client.outbox.stop();
});

test("the order is kept when the clock is set back between two items", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: 2_000_000_000_000 });
  const network = new Network();
  const client = await network.page();
  await client.startSession("a");
  t.mock.timers.setTime(1_900_000_000_000);
  await client.endSession("a", { transcriptHash: HASH });

  await client.outbox.flush();

  assert.deepEqual(network.sent, ["start a", "end a"]);
});

test("a time is that of the call, or the one given, not that of the delivery", async (t) => {
  t.mock.timers.enable({ apis: ["Date"], now: Date.UTC(2026, 0, 31, 8, 30) });
  const network = new Network();
  const client = await network.page();

  const started = await client.startSession("a");
  const given = await client.startSession("b", { startedAt: "2026-01-30T09:00:00+01:00" });
  const ended = await client.endSession("b", { transcriptHash: HASH, endedAt: new Date(Date.UTC(2026, 0, 30, 9)) });

  assert.deepEqual(started.body, { session_id: "a", started_at: "2026-01-31T08:30:00.000Z" });
  assert.deepEqual(given.body, { session_id: "b", started_at: "2026-01-30T09:00:00+01:00" });
  assert.deepEqual(ended.body, { session_id: "b", transcript_hash: HASH, ended_at: "2026-01-30T09:00:00.000Z" });
});

test("two tabs that write before they hear of each other lose nothing, and may both deliver it", async () => {
  const network = new Network();
  const [one, two, exchange] = storesOfTwoProcesses();
  const tabs = [await network.page(one), await network.page(two)];
  for (const i of Array(20).keys()) await Promise.all(tabs.map((tab, number) => tab.startSession(`${number}-${i}`)));
  exchange();
  assert.deepEqual(tabs.map((tab) => tab.outbox.pending.length), [40, 40]);

  await Promise.all(tabs.map((tab) => tab.outbox.flush()));
  exchange();

  assert.equal(new Set(network.sent).size, 40);
  assert.deepEqual(tabs.map((tab) => tab.outbox.pending), [[], []]);
});

test("what another tab changes in the outbox is a change here", async (t) => {
  const page = new EventTarget();
  for (const name of ["addEventListener", "removeEventListener"]) {
    globalThis[name] = page[name].bind(page);
    t.after(() => delete globalThis[name]);
  }
  const client = await new Network().page();
  let changes = 0;
  client.outbox.addEventListener("changed", () => (changes += 1));
  client.outbox.start();

  for (const key of ["lumen.outbox.ada.1", "lumen.outbox.bob.1", "theme", null]) {
    page.dispatchEvent(Object.assign(new Event("storage"), { key }));
  }

  assert.equal(changes, 1);
  client.outbox.stop();
});

const full = () => {
  throw new DOMException("The quota has been exceeded.", "QuotaExceededError");
};

const FAULTS = {
  "is full": { setItem: full },
  "is blocked": { getItem: full, setItem: full, removeItem: full, key: full },
  "forgets at once": { setItem: () => {} },
};

for (const [fault, members] of Object.entries(FAULTS)) {
  test(`a store that ${fault}: starting and ending say so, and nothing else breaks`, async () => {
    const network = new Network();
    const client = await network.page(Object.assign(store(), members));
    client.outbox.start();

    await assert.rejects(client.startSession("a"), { name: "LumenError", status: 0, code: "storage_error" });
    await assert.rejects(client.endSession("a", { transcriptHash: HASH }), { code: "storage_error" });

    assert.deepEqual(await client.outbox.flush(), { delivered: 0, rejected: 0, pending: 0 });
    assert.equal((await client.session()).user_id, "ada");
    await client.deleteAccount();
    await client.logout();
    client.outbox.stop();
  });
}

test("garbage under the outbox's keys is passed over, and what is good is delivered", async () => {
  const network = new Network();
  const garbage = [
    ...["", "{", "null", "7", '"text"', "[]", "{}", '{"kind":"start"}', '{"kind":"start","body":null,"position":1}'],
    '{"kind":"start","body":{"session_id":"a"},"position":"1"}',
    '{"kind":"../auth/logout-all","body":{"session_id":"a"},"position":1}',
  ];
  const storage = store(new Map(garbage.map((text, number) => [`lumen.outbox.ada.${number}`, text])));
  const client = await network.page(storage);
  await client.startSession("good");

  assert.deepEqual(sessionIds(client), ["good"]);
  assert.deepEqual(await client.outbox.flush(), { delivered: 1, rejected: 0, pending: 0 });
  assert.deepEqual(network.sent, ["start good"]);
});

test("an item that the store does not let go of is sent once a delivery, not for ever", async () => {
  const network = new Network();
  const client = await network.page(Object.assign(store(), { removeItem: full }));
  await client.startSession("a");

  assert.deepEqual(await client.outbox.flush(), { delivered: 1, rejected: 0, pending: 1 });

  assert.deepEqual(network.sent, ["start a"]);
});

for (const index of [undefined, "{", "7", "[1,null]"]) {
  test(`a store of three functions survives a reload, with ${index ?? "nothing"} where the index goes`, async () => {
    const network = new Network();
    const { values, getItem, setItem, removeItem } = store();
    const storage = { getItem, setItem, removeItem };
    if (index) values.set("lumen.outbox", index);
    await (await network.page(storage)).startSession("a");

    const client = await network.page(storage);

    assert.deepEqual(sessionIds(client), ["a"]);
    assert.deepEqual(await client.outbox.flush(), { delivered: 1, rejected: 0, pending: 0 });
    assert.equal(values.get("lumen.outbox"), "[]");
    assert.deepEqual([...values.keys()].sort(), ["lumen.outbox", "lumen.user_id"]);
  });
}

test("a localStorage that the browser blocks is replaced by memory", async (t) => {
  Object.defineProperty(globalThis, "localStorage", { get: full, configurable: true });
  t.after(() => delete globalThis.localStorage);
  const network = new Network();
  const client = new LumenClient({ fetch: network.fetch });
  await client.session();

  await client.startSession("a");

  assert.deepEqual(await client.outbox.flush(), { delivered: 1, rejected: 0, pending: 0 });
});
