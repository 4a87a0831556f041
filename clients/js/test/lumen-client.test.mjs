/** LumenClient on a scripted network: requests, errors, and whose outbox it is. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { LumenClient, LumenError } from "../lumen-client.mjs";
import { HASH, Network, answer, store } from "./scripted.mjs";

const answering = (response) => new LumenClient({ fetch: async () => response });

test("an error carries the status, the code, the request id and the seconds of Retry-After", async () => {
  const client = answering(answer(429, {}, { "Retry-After": "17" }));

  const error = await client.requestLink("ada@example.com").catch((thrown) => thrown);

  assert(error instanceof LumenError && error instanceof Error);
  const facts = { name: "LumenError", status: 429, code: "code_429", requestId: "r-1", retryAfter: 17 };
  assert.deepEqual({ ...error }, facts);
  assert.equal(error.message, "So it is.");
});

test("a network that fails is status 0 and network_error, with its cause", async () => {
  const cause = new TypeError("fetch failed");
  const client = new LumenClient({ fetch: () => Promise.reject(cause) });

  await assert.rejects(client.session(), { name: "LumenError", status: 0, code: "network_error", cause });
});

test("an answer that breaks off is a network error", async () => {
  const body = new ReadableStream({ start: (controller) => controller.error(new TypeError("terminated")) });

  await assert.rejects(answering(new Response(body)).session(), { status: 0, code: "network_error" });
});

const NOT_OURS = [[200, "<h1>Pay for Wi-Fi</h1>"], [200, "null"], [502, "<h1>Bad Gateway</h1>"], [500, "{}"]];

for (const [status, text] of NOT_OURS) {
  test(`${status} ${text} is an unexpected answer`, async () => {
    await assert.rejects(answering(new Response(text, { status })).session(), { status, code: "unexpected_answer" });
  });
}

for (const value of ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "soon", ""]) {
  test(`a Retry-After of "${value}" is none`, async () => {
    const error = await answering(answer(503, {}, { "Retry-After": value })).session().catch((thrown) => thrown);

    assert.equal(error.retryAfter, undefined);
  });
}

test("a body goes out as JSON with one content type, and no body with none", async () => {
  const network = new Network();
  const client = new LumenClient({ baseUrl: "https://api.example.com/", fetch: network.fetch });

  await client.requestLink("ada@example.com");
  await client.logout();

  const [link, logout] = network.requests;
  assert.equal(link.url, "https://api.example.com/v1/auth/request-link");
  assert.deepEqual(link.init.headers, { "Content-Type": "application/json" });
  assert.equal(link.init.body, '{"email":"ada@example.com"}');
  assert.deepEqual([logout.init.headers, logout.init.body], [{}, undefined]);
  for (const { init } of [link, logout]) assert.deepEqual([init.method, init.credentials], ["POST", "include"]);
});

test("fetch is called as a function, as browsers demand", async () => {
  let owner = "not called";
  async function fetch() {
    owner = this;
    return answer(200);
  }
  const client = new LumenClient({ fetch });

  await client.exportAccount();

  assert.equal(owner, undefined);
});

test("onExchange sees each request with what came of it", async () => {
  const seen = [];
  const network = new Network();
  const client = new LumenClient({ fetch: network.fetch, onExchange: (exchange) => seen.push(exchange) });
  network.user = null;

  await client.requestLink("ada@example.com");
  await client.session().catch(() => {});

  const [link, session] = seen.map(({ durationMs, ...facts }) => (assert(durationMs >= 0), facts));
  assert.deepEqual(link, {
    method: "POST", path: "/v1/auth/request-link", requestBody: { email: "ada@example.com" },
    status: 200, requestId: "r-1", responseBody: { status: "ok" },
  });
  assert.deepEqual([session.method, session.requestBody, session.status], ["GET", undefined, 401]);
  assert.equal(session.error.code, "code_401");
});

test("allSessions walks through all pages, and listSessions sends only what is given", async () => {
  const paths = [];
  const pages = [{ sessions: [1, 2], next_cursor: "a+b&c" }, { sessions: [3], next_cursor: null }, { sessions: [] }];
  const client = new LumenClient({ fetch: async (path) => (paths.push(path), answer(200, pages.shift())) });

  assert.deepEqual(await collect(client.allSessions()), [1, 2, 3]);
  await client.listSessions({ limit: undefined, cursor: null });

  assert.deepEqual(paths, ["/v1/sessions?limit=100", "/v1/sessions?limit=100&cursor=a%2Bb%26c", "/v1/sessions"]);
});

async function collect(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

test("verify makes the outbox that of who has signed in", async () => {
  const network = new Network();
  const client = new LumenClient({ fetch: network.fetch, storage: store() });

  assert.deepEqual(await client.verify("t"), { status: "ok" });

  assert.equal(client.outbox.userId, "ada");
});

test("after a verify whose session could not be asked for, the outbox is nobody's, not the former user's", async () => {
  const network = new Network();
  const client = await network.page();
  network.user = null;

  await client.verify("t");

  await assert.rejects(client.startSession("a"), { status: 401, code: "unauthorized" });
});

test("an answer of session() that a logout has overtaken does not bring the user back", async () => {
  let answerLate;
  const client = new LumenClient({
    fetch: (url) => (url.endsWith("session") ? new Promise((resolve) => (answerLate = resolve)) : answer(200)),
  });
  const session = client.session();
  await client.logout();
  answerLate(answer(200, { user_id: "ada" }));
  await session;

  assert.equal(client.outbox.userId, undefined);
});

for (const leave of ["logout", "logoutAll"]) {
  test(`after ${leave} nothing can be started, and what waits is still stored`, async () => {
    const network = new Network();
    const client = await network.page();
    await client.startSession("a");

    await client[leave]();

    await assert.rejects(client.startSession("b"), { name: "LumenError", status: 401, code: "unauthorized" });
    assert.deepEqual(client.outbox.pending, []);
    await client.session();
    assert.equal(client.outbox.pending.length, 1);
  });
}

test("a logout that fails leaves everything as it is", async () => {
  const network = new Network();
  const client = await network.page(store(), {
    fetch: (url, init) => (url.endsWith("logout") ? Promise.reject(new TypeError()) : network.fetch(url, init)),
  });

  await assert.rejects(client.logout(), { code: "network_error" });

  assert.equal(client.outbox.userId, "ada");
});

test("deleting the account empties the user's outbox, garbage included, and nobody else's", async () => {
  const network = new Network();
  const storage = store(new Map([["lumen.outbox.ada.x", "{"], ["theme", "dark"]]));
  network.user = "bob";
  await (await network.page(storage)).startSession("b");
  network.user = "ada";
  const client = await network.page(storage);
  await client.startSession("a");

  await client.deleteAccount();

  assert.deepEqual([...storage.values.keys()].filter((key) => key.includes("ada")), []);
  assert.equal([...storage.values.keys()].filter((key) => key.includes("bob")).length, 1);
  assert.equal(storage.getItem("theme"), "dark");
});

test("a tab whose user has changed meanwhile deletes nobody's account", async () => {
  const network = new Network();
  const client = await network.page();
  await client.endSession("a", { transcriptHash: HASH });
  network.user = "bob";

  await assert.rejects(client.deleteAccount(), { code: "another_user" });

  assert.deepEqual(network.requests.filter(({ init }) => init.method === "DELETE"), []);
  assert.equal(client.outbox.pending.length, 1);
});
