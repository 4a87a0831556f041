/**
 * A client of the Lumen API for browsers and Node, without dependencies.
 * What each member takes, returns and throws: lumen-client.d.ts. The contract: openapi.yaml.
 */

import { LumenError, anotherUser } from "./lumen-error.mjs";
import { Outbox, withSignInLock } from "./outbox.mjs";

export { LumenError, Outbox };

const SESSION = "/v1/auth/session";
const TIMEOUT_MS = 10_000;

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

  async #call(method, path, requestBody) {
    const exchange = { method, path, requestBody, status: 0 };
    const begun = performance.now();
    try {
      await this.#exchange(exchange);
    } catch (error) {
      exchange.error = error;
      throw error;
    } finally {
      exchange.durationMs = performance.now() - begun;
      this.#onExchange(exchange);
    }
    return exchange.responseBody;
  }

  /** Sends the request in `exchange`, and writes the answer into it. */
  async #exchange(exchange) {
    const hasBody = exchange.requestBody !== undefined;
    const fetch = this.#fetch; // called as a function: a browser's own refuses to be a method of this object
    let response;
    try {
      response = await fetch(this.#baseUrl + exchange.path, {
        method: exchange.method,
        credentials: "include",
        headers: hasBody ? { "Content-Type": "application/json" } : {},
        body: hasBody ? JSON.stringify(exchange.requestBody) : undefined,
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      exchange.status = response.status;
      exchange.requestId = response.headers.get("X-Request-Id") ?? undefined;
      exchange.responseBody = jsonOrText(await response.text());
    } catch (cause) {
      throw new LumenError("The server could not be reached.", { code: "network_error", cause });
    }
    // A page in place of JSON is a proxy's or a captive portal's, with status 200 too.
    if (!response.ok || typeof exchange.responseBody !== "object") throw errorIn(exchange, response.headers);
  }
}

function errorIn({ status, requestId, responseBody }, headers) {
  const { code = "unexpected_answer", message = `Unexpected answer ${status}.` } = responseBody?.error ?? {};
  const seconds = headers.get("Retry-After") ?? "";
  const retryAfter = /^\d+$/.test(seconds) ? Number(seconds) : undefined;
  return new LumenError(message, { status, code, requestId, retryAfter });
}

function jsonOrText(text) {
  try {
    return JSON.parse(text) ?? text;
  } catch {
    return text;
  }
}
