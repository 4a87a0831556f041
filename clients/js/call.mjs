/** One request of LumenClient, from its sending until its answer has come or is given up. */

import { LumenError } from "./lumen-error.mjs";
import { serverSentEvents } from "./server-sent-events.mjs";

/** What came of it is written into `exchange` (see lumen-client.d.ts). `close()` it in any case. */
export class Call {
  #exchange;
  #signal; // the caller's
  #timeoutMs;
  #begun = performance.now();
  #request = new AbortController();
  #timer;
  #response;

  /** It is given up when `signal` says so, or after `timeoutMs`; in a stream they count from piece to piece. */
  constructor(exchange, { signal, timeoutMs }) {
    this.#exchange = exchange;
    this.#signal = signal;
    this.#timeoutMs = timeoutMs;
    // Not AbortSignal.any(): browsers that are supported do not have it.
    const abort = () => this.#request.abort(signal.reason);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { signal: this.#request.signal });
  }

  /** `fetch` is called as a function: a browser's own refuses to be a method of another object. */
  async send(fetch, baseUrl) {
    const { method, path, requestBody } = this.#exchange;
    const hasBody = requestBody !== undefined;
    this.#wait();
    this.#response = await fetch(baseUrl + path, {
      method,
      credentials: "include",
      headers: hasBody ? { "Content-Type": "application/json" } : {},
      body: hasBody ? JSON.stringify(requestBody) : undefined,
      signal: this.#request.signal,
    });
    this.#exchange.status = this.#response.status;
    this.#exchange.requestId = this.#response.headers.get("X-Request-Id") ?? undefined;
  }

  /** The answer, which is an object. */
  async json() {
    const body = (this.#exchange.responseBody = jsonOrText(await this.#response.text()));
    // A page in place of JSON is a proxy's or a captive portal's, with status 200 too.
    if (!this.#response.ok || typeof body !== "object") throw this.#errorIn(body);
    return body;
  }

  /** The model's events, as they come. */
  async *events() {
    const isStream = this.#response.headers.get("Content-Type")?.startsWith("text/event-stream");
    if (!this.#response.ok || !isStream) throw this.#errorIn(await this.json());
    const lost = {};
    let complete = false;
    for await (const { type, data } of serverSentEvents(this.#pieces(lost))) {
      this.#signal?.throwIfAborted(); // what came before the abort in one piece with others stays unread
      const event = jsonOrText(data);
      if (type === "error" || typeof event !== "object") throw this.#errorIn(event);
      complete ||= event.type === "message_stop";
      yield event;
    }
    if (!complete) throw networkError("The answer was cut off.", lost.cause);
  }

  /** The error to throw in place of `error`. */
  failed(error) {
    if (this.#signal?.aborted) error = this.#signal.reason;
    else if (!(error instanceof LumenError)) error = networkError("The server could not be reached.", error);
    return (this.#exchange.error = error);
  }

  /** Ends the request, if it has not ended. */
  close() {
    clearTimeout(this.#timer);
    this.#request.abort();
    this.#exchange.durationMs = performance.now() - this.#begun;
  }

  /** The body, until it ends or breaks off: `lost.cause` says why. */
  async *#pieces(lost) {
    const reader = this.#response.body.getReader(); // Safari cannot iterate over a body
    for (;;) {
      this.#wait();
      const { value, done } = await reader.read().catch((cause) => {
        lost.cause = cause;
        return { done: true };
      });
      clearTimeout(this.#timer); // while the caller is busy nobody waits for the server
      if (done) return;
      yield value;
    }
  }

  #wait() {
    clearTimeout(this.#timer);
    const giveUp = () => this.#request.abort(new DOMException("The server was silent.", "TimeoutError"));
    this.#timer = setTimeout(giveUp, this.#timeoutMs);
  }

  #errorIn(body) {
    const { status, requestId: id } = this.#exchange;
    const { code = "unexpected_answer", message = `Unexpected answer ${status}.`, request_id = id } = body?.error ?? {};
    const seconds = this.#response.headers.get("Retry-After") ?? "";
    const retryAfter = /^\d+$/.test(seconds) ? Number(seconds) : undefined;
    return new LumenError(message, { status, code, requestId: request_id, retryAfter });
  }
}

const networkError = (message, cause) => new LumenError(message, { code: "network_error", cause });

function jsonOrText(text) {
  try {
    return JSON.parse(text) ?? text;
  } catch {
    return text;
  }
}
