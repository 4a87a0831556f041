/**
 * A client of the Lumen API for browsers and Node, without dependencies.
 * What each member takes, returns and throws: lumen-client.d.ts. The contract: openapi.yaml.
 */

import { Call } from "./call.mjs";
import { LumenError, anotherUser } from "./lumen-error.mjs";
import { Outbox, withSignInLock } from "./outbox.mjs";

export { LumenError, Outbox };

const SESSION = "/v1/auth/session";
const MESSAGES = "/v1/llm/messages";

const TIMEOUT_MS = 10_000;
const MESSAGE_TIMEOUT_MS = 11 * 60_000; // the server itself gives up after LLM_TOTAL_TIMEOUT, 10 minutes
const SILENCE_MS = 75_000; // in a stream, where the server sends at least a comment every 15 s

/** The API, one method for each route. Starting and ending a session goes through `outbox`. */
export class LumenClient {
  #baseUrl;
  #fetch;
  #onExchange;
  #userChanges = 0;

  constructor({ baseUrl = "", fetch = globalThis.fetch, storage, onExchange = () => {} } = {}) {
    this.#baseUrl = baseUrl.replace(/\/+$/, "");
    this.#fetch = fetch;
    this.#onExchange = onExchange;
    this.outbox = new Outbox({
      storage,
      signedInUser: async () => (await this.#call("GET", SESSION)).user_id,
      send: ({ kind, body }) => this.#call("POST", `/v1/sessions/${kind}`, body),
    });
  }

  requestLink(email) {
    return this.#call("POST", "/v1/auth/request-link", { email });
  }

  async verify(token) {
    const answer = await withSignInLock("exclusive", () => this.#call("POST", "/v1/auth/verify", { token }));
    this.#setUser(undefined);
    await this.session().catch(() => {}); // signed in all the same; the next session() tells as whom
    return answer;
  }

  async session() {
    const before = this.#userChanges;
    const session = await this.#call("GET", SESSION);
    // An answer that a sign-in or a logout has overtaken is about the user before.
    if (before === this.#userChanges) this.outbox.belongTo(session.user_id);
    return session;
  }

  async logout() {
    const answer = await this.#call("POST", "/v1/auth/logout");
    this.#setUser(undefined);
    return answer;
  }

  async logoutAll() {
    const answer = await this.#call("POST", "/v1/auth/logout-all");
    this.#setUser(undefined);
    return answer;
  }

  // The times are taken here, because delivery may be later.

  async startSession(sessionId, { startedAt = new Date() } = {}) {
    return this.outbox.add("start", { session_id: sessionId, started_at: startedAt });
  }

  async endSession(sessionId, { transcriptHash, endedAt = new Date() } = {}) {
    return this.outbox.add("end", { session_id: sessionId, transcript_hash: transcriptHash, ended_at: endedAt });
  }

  listSessions({ limit, cursor } = {}) {
    const given = Object.entries({ limit, cursor }).filter(([, value]) => value !== undefined && value !== null);
    const query = new URLSearchParams(given).toString();
    return this.#call("GET", query ? `/v1/sessions?${query}` : "/v1/sessions");
  }

  async *allSessions() {
    let cursor;
    do {
      const page = await this.listSessions({ limit: 100, cursor });
      yield* page.sessions;
      cursor = page.next_cursor;
    } while (cursor);
  }

  messages(request, { signal } = {}) {
    const timeoutMs = MESSAGE_TIMEOUT_MS;
    return this.#call("POST", MESSAGES, { ...request, stream: false }, { signal, timeoutMs });
  }

  async *streamMessages(request, { signal } = {}) {
    const exchange = { method: "POST", path: MESSAGES, requestBody: { ...request, stream: true }, status: 0 };
    const call = new Call(exchange, { signal, timeoutMs: SILENCE_MS });
    try {
      await call.send(this.#fetch, this.#baseUrl);
      yield* call.events();
    } catch (error) {
      throw call.failed(error);
    } finally {
      call.close();
      this.#onExchange(exchange);
    }
  }

  usage() {
    return this.#call("GET", "/v1/llm/usage");
  }

  exportAccount() {
    return this.#call("GET", "/v1/account");
  }

  async deleteAccount() {
    const { user_id: userId } = await this.#call("GET", SESSION);
    // Another tab may have signed in somebody else, whose account nobody asked to delete.
    if ((this.outbox.userId ?? userId) !== userId) throw anotherUser();
    const answer = await this.#call("DELETE", "/v1/account");
    this.outbox.clear(userId);
    this.#setUser(undefined);
    return answer;
  }

  #setUser(userId) {
    this.#userChanges += 1;
    this.outbox.belongTo(userId);
  }

  async #call(method, path, requestBody, { signal, timeoutMs = TIMEOUT_MS } = {}) {
    const exchange = { method, path, requestBody, status: 0 };
    const call = new Call(exchange, { signal, timeoutMs });
    try {
      await call.send(this.#fetch, this.#baseUrl);
      return await call.json();
    } catch (error) {
      throw call.failed(error);
    } finally {
      call.close();
      this.#onExchange(exchange);
    }
  }
}
