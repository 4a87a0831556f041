/**
 * LumenClient against a running service. LUMEN_URL says where it is; without it there is nothing here to run.
 * It is one for development: request-link answers with the link. tests/test_js_client.py serves it.
 */

import assert from "node:assert/strict";
import { test as declare } from "node:test";

import { LumenClient } from "../lumen-client.mjs";
import { HASH, store } from "./scripted.mjs";

const baseUrl = process.env.LUMEN_URL;
const test = baseUrl ? declare : () => {};
const OTHER_HASH = HASH.replaceAll("2", "3");

let people = 0;

/** A browser with cookies, which Node's fetch has not. `online` may be switched off; `storage` is its tabs' store. */
class Browser {
  online = true;
  storage = store();
  #cookies = new Map();

  fetch = async (url, init) => {
    if (!this.online) throw new TypeError("fetch failed");
    const cookie = [...this.#cookies].map((pair) => pair.join("=")).join("; ");
    const response = await fetch(url, { ...init, headers: { ...init.headers, cookie } });
    for (const line of response.headers.getSetCookie()) {
      const [name, value] = line.split(";")[0].split("=");
      if (value) this.#cookies.set(name, value);
      else this.#cookies.delete(name);
    }
    return response;
  };

  tab() {
    return new LumenClient({ baseUrl, fetch: this.fetch, storage: this.storage });
  }
}

async function linkFor(client, email) {
  const { magic_link: link } = await client.requestLink(email);
  return new URL(link).searchParams.get("token");
}

/** A tab in which `email` is signed in: somebody new, if not given. */
async function signedIn({ browser = new Browser(), email = `person-${(people += 1)}@example.com` } = {}) {
  const client = browser.tab();
  await client.verify(await linkFor(client, email));
  return { browser, client, email };
}

async function all(iterable) {
  const found = [];
  for await (const item of iterable) found.push(item);
  return found;
}

test("the whole journey: link, sign-in, session, list, export, logout", async () => {
  const { client, email } = await signedIn();
  const { user_id: userId, ...session } = await client.session();
  assert.deepEqual([session.email, client.outbox.userId], [email, userId]);

  await client.startSession("first", { startedAt: "2026-01-31T09:30:00+01:00" });
  await client.endSession("first", { transcriptHash: HASH, endedAt: new Date(Date.UTC(2026, 0, 31, 9)) });
  assert.deepEqual(await client.outbox.flush(), { delivered: 2, rejected: 0, pending: 0 });

  const { sessions, next_cursor: cursor } = await client.listSessions();
  assert.deepEqual([sessions, cursor], [[{
    session_id: "first",
    started_at: "2026-01-31T08:30:00.000000Z",
    ended_at: "2026-01-31T09:00:00.000000Z",
    transcript_hash: HASH,
  }], null]);
  assert.deepEqual((await client.exportAccount()).sessions, sessions);

  assert.deepEqual(await client.logout(), { status: "ok" });
  await assert.rejects(client.session(), { status: 401, code: "unauthorized", requestId: /^[0-9a-f]{32}$/ });
});

test("a link signs in once", async () => {
  const client = new Browser().tab();
  const token = await linkFor(client, "once@example.com");
  await client.verify(token);

  await assert.rejects(new Browser().tab().verify(token), { status: 401, code: "invalid_token" });
});

test("an address that is none is refused with the service's own words", async () => {
  await assert.rejects(new Browser().tab().requestLink("nobody"), {
    status: 400, code: "invalid_email", message: "Give an email address that can receive mail.",
  });
});

test("what begins and ends offline, with a reload between, is delivered later with its own times", async () => {
  const { browser, client } = await signedIn();
  browser.online = false;
  const started = await client.startSession("offline");
  client.outbox.start();
  await client.outbox.flush();
  client.outbox.stop();

  const reloaded = browser.tab();
  await assert.rejects(reloaded.session(), { status: 0, code: "network_error" });
  await reloaded.endSession("offline", { transcriptHash: HASH });
  browser.online = true;
  assert.deepEqual(await reloaded.outbox.flush(), { delivered: 2, rejected: 0, pending: 0 });

  const [session] = await all(reloaded.allSessions());
  assert.equal(Date.parse(session.started_at), Date.parse(started.body.started_at));
  assert.equal(session.transcript_hash, HASH);
});

test("an answer that is lost on its way is asked for again, and recorded once", async () => {
  const { browser, client } = await signedIn();
  const { fetch } = browser;
  const losing = new LumenClient({
    baseUrl,
    storage: browser.storage,
    fetch: async (url, init) => {
      const response = await fetch(url, init);
      if (init.method === "POST") throw new TypeError(`terminated after ${response.status}`);
      return response;
    },
  });
  await losing.startSession("once");
  assert.deepEqual(await losing.outbox.flush(), { delivered: 0, rejected: 0, pending: 1 });

  assert.deepEqual(await client.outbox.flush(), { delivered: 1, rejected: 0, pending: 0 });
  assert.equal((await client.listSessions()).sessions.length, 1);
});

test("another hash for a session that has ended, and an id that is none, are rejected for good", async () => {
  const { client } = await signedIn();
  const codes = [];
  client.outbox.addEventListener("rejected", ({ error }) => codes.push(error.code));
  await client.endSession("a", { transcriptHash: HASH });
  await client.endSession("a", { transcriptHash: OTHER_HASH });
  await client.startSession("no id");
  await client.endSession("b");

  assert.deepEqual(await client.outbox.flush(), { delivered: 1, rejected: 3, pending: 0 });

  assert.deepEqual(codes, ["session_already_ended", "invalid_session_id", "missing_transcript_hash"]);
});

test("two tabs that deliver the same items at once record each once", async () => {
  const { browser, client } = await signedIn();
  for (const id of ["a", "b", "c"]) {
    await client.startSession(id);
    await client.endSession(id, { transcriptHash: HASH });
  }

  await Promise.all([client.outbox.flush(), browser.tab().outbox.flush()]);

  const ids = (await all(client.allSessions())).map((session) => session.session_id);
  assert.deepEqual([ids.toSorted(), client.outbox.pending], [["a", "b", "c"], []]);
});

test("logoutAll ends the sign-in elsewhere, whose items wait for its next sign-in", async () => {
  const { browser, client, email } = await signedIn();
  const { client: elsewhere } = await signedIn({ email });
  assert.equal((await elsewhere.logoutAll()).revoked, 2);

  await client.endSession("kept", { transcriptHash: HASH });
  assert.deepEqual(await client.outbox.flush(), { delivered: 0, rejected: 0, pending: 1 });
  await signedIn({ browser });
  assert.deepEqual(await client.outbox.flush(), { delivered: 0, rejected: 0, pending: 1 });

  const { client: back } = await signedIn({ browser, email });
  assert.deepEqual(await back.outbox.flush(), { delivered: 1, rejected: 0, pending: 0 });
  assert.equal((await back.listSessions()).sessions[0].session_id, "kept");
});

test("allSessions finds every session over several pages, newest first", async () => {
  const { client } = await signedIn();
  const ids = Array.from({ length: 103 }, (_, number) => `s${String(number).padStart(3, "0")}`);
  for (const id of ids) await client.startSession(id, { startedAt: "2026-01-31T08:30:00Z" });
  await client.outbox.flush();

  const found = (await all(client.allSessions())).map((session) => session.session_id);

  assert.deepEqual(found.toSorted(), ids);
  assert.equal((await client.listSessions({ limit: 7 })).sessions.length, 7);
});

test("deletion leaves nothing on the server or in the outbox, and the next sign-in is somebody new's", async () => {
  const { browser, client, email } = await signedIn();
  const { user_id: before } = await client.session();
  await client.startSession("a");

  assert.deepEqual(await client.deleteAccount(), { status: "ok" });

  assert.deepEqual([...browser.storage.values.keys()], []);
  const { client: again } = await signedIn({ browser, email });
  assert.notEqual((await again.session()).user_id, before);
  assert.deepEqual((await again.exportAccount()).sessions, []);
});

test("a streamed call of the model yields the events as they come, and its tokens are used", async () => {
  const { client } = await signedIn();
  const messages = [{ role: "user", content: "Grüße 🌿" }];

  const events = await all(client.streamMessages({ model: "claude-haiku-5-5", max_tokens: 64, messages }));

  assert.equal(events[0].type, "message_start");
  assert.equal(events.at(-1).type, "message_stop");
  assert.equal(events.map((event) => event.delta?.text ?? "").join(""), "You said: Grüße 🌿");
  assert((await client.usage()).used > 0);
});
