/** What the model's events look like on the wire, and networks that carry them. */

import assert from "node:assert/strict";

import { LumenClient } from "../lumen-client.mjs";

export const REQUEST = { model: "m", max_tokens: 9, messages: [{ role: "user", content: "a secret" }] };
export const delta = (text) => ({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } });
export const STOP = { type: "message_stop" };
export const ANSWER = [
  { type: "message_start", message: { id: "m1" } },
  delta("Hé"),
  { type: "ping" },
  delta("llo \u{1f33f}"),
  STOP,
];
const ERROR = { error: { code: "provider_error", message: "The model failed.", request_id: "r-9" } };

export const sse = (event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
export const stream = (events) => events.map(sse).join("");
export const ERROR_EVENT = `event: error\ndata: ${JSON.stringify(ERROR)}\n\n`;

export const STREAM = { headers: { "Content-Type": "text/event-stream; charset=utf-8", "X-Request-Id": "r-1" } };

/** A fetch whose answer streams what `send(text)` gives it until `end()`, or until its signal aborts. */
export function wire() {
  let body;
  const encoder = new TextEncoder();
  const wire = {
    send: (text) => body.enqueue(encoder.encode(text)),
    end: () => body.close(),
    fail: (error) => body.error(error),
    fetch: async (url, init) => {
      Object.assign(wire, { url, init });
      init.signal.throwIfAborted();
      const source = new ReadableStream({ start: (controller) => (body = controller) });
      init.signal.addEventListener("abort", () => body.error(init.signal.reason));
      return new Response(source, STREAM);
    },
  };
  return wire;
}

/** A client whose every answer is `text`. */
export const answering = (text, init = STREAM, onExchange) =>
  new LumenClient({ fetch: async () => new Response(text, init), onExchange });

export async function collect(events, found = []) {
  for await (const event of events) found.push(event);
  return found;
}

/** What came before reading `events` threw, and the error. */
export async function broken(events) {
  const found = [];
  const error = await collect(events, found).then(() => assert.fail("ended well"), (thrown) => thrown);
  return [found, error];
}

/** The error that `promise` is rejected with. */
export const refused = (promise) => promise.then(() => assert.fail("resolved"), (error) => error);
