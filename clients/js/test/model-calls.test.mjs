/** LumenClient's model calls on a scripted network: what is asked, what comes, and what goes wrong. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { LumenClient } from "../lumen-client.mjs";
import { answer, quiet, until } from "./scripted.mjs";
import {
  ANSWER, ERROR_EVENT, REQUEST, STOP, STREAM, answering, broken, collect, delta, refused, sse, stream, wire,
} from "./streams.mjs";

// --- What is asked, and what comes of it. ---

test("messages resolves to the provider's message, and says itself that nothing is streamed", async () => {
  const message = { id: "m1", type: "message", content: [{ type: "text", text: "Hello." }] };
  const requests = [];
  const client = new LumenClient({ fetch: async (...given) => (requests.push(given), Response.json(message)) });

  assert.deepEqual(await client.messages({ ...REQUEST, stream: true }), message);

  const [[url, { method, body }]] = requests;
  assert.deepEqual([method, url, JSON.parse(body)], ["POST", "/v1/llm/messages", { ...REQUEST, stream: false }]);
});

test("streamMessages yields every event, parsed, as soon as it has come", async () => {
  const network = wire();
  const seen = [];
  const reading = collect(new LumenClient({ fetch: network.fetch }).streamMessages(REQUEST), seen);
  await quiet();
  assert.deepEqual([network.url, JSON.parse(network.init.body)], ["/v1/llm/messages", { ...REQUEST, stream: true }]);

  for (const [number, event] of ANSWER.entries()) {
    network.send(`: still there\n\n${sse(event)}`);
    await until(() => seen.length === number + 1);
  }
  network.end();

  assert.deepEqual(await reading, ANSWER);
});

test("usage asks for the tokens of the day", async () => {
  const client = new LumenClient({ fetch: async (url, { method }) => answer(200, { url, method, used: 7 }) });

  assert.deepEqual(await client.usage(), { status: "ok", url: "/v1/llm/usage", method: "GET", used: 7 });
});

// --- What goes wrong. ---

for (const call of ["messages", "streamMessages"]) {
  const made = async (client, options) =>
    call === "messages" ? client.messages(REQUEST, options) : collect(client.streamMessages(REQUEST, options));

  test(`${call} throws the server's error with its Retry-After`, async () => {
    const error = await refused(made(new LumenClient({ fetch: async () => answer(429, {}, { "Retry-After": "17" }) })));

    const facts = { name: "LumenError", status: 429, code: "code_429", requestId: "r-1", retryAfter: 17 };
    assert.deepEqual([{ ...error }, error.message], [facts, "So it is."]);
  });

  for (const [status, text] of [[200, "<h1>Pay for Wi-Fi</h1>"], [502, "<h1>Bad Gateway</h1>"], [200, ""]]) {
    test(`${call} takes ${status} "${text}" for an unexpected answer`, async () => {
      const error = await refused(made(answering(text, { status })));

      assert.deepEqual([error.name, error.status, error.code], ["LumenError", status, "unexpected_answer"]);
    });
  }

  test(`${call} without a network is a network error with its cause`, async () => {
    const cause = new TypeError("fetch failed");
    const error = await refused(made(new LumenClient({ fetch: () => Promise.reject(cause) })));

    assert.deepEqual([error.status, error.code, error.cause], [0, "network_error", cause]);
  });

  test(`${call} passes on what its signal is aborted with, before and while it waits`, async () => {
    const client = new LumenClient({
      fetch: (_, { signal }) => new Promise((_, reject) => {
        if (signal.aborted) reject(signal.reason);
        signal.addEventListener("abort", () => reject(new TypeError("a browser's own words")));
      }),
    });
    const stop = new AbortController();
    const waiting = refused(made(client, { signal: stop.signal }));
    await quiet();
    stop.abort();

    assert.equal((await waiting).name, "AbortError");
    assert.equal((await refused(made(client, { signal: stop.signal }))).name, "AbortError");
    const reason = new Error("enough");
    assert.equal(await refused(made(client, { signal: AbortSignal.abort(reason) })), reason);
  });
}

test("a stream in place of JSON, and JSON in place of a stream, are unexpected answers", async () => {
  const json = new LumenClient({ fetch: async () => Response.json({ type: "message" }) });

  const errors = [
    await refused(answering(stream(ANSWER)).messages(REQUEST)),
    await refused(json.streamMessages(REQUEST).next()),
  ];

  assert.deepEqual(errors.map(({ status, code }) => [status, code]), Array(2).fill([200, "unexpected_answer"]));
});

test("an error in the stream is thrown as the server words it, after what came before it", async () => {
  const [found, error] = await broken(answering(sse(delta("a")) + ERROR_EVENT + sse(STOP)).streamMessages(REQUEST));

  assert.deepEqual(found, [delta("a")]);
  assert.equal(error.message, "The model failed.");
  const facts = { name: "LumenError", status: 200, code: "provider_error", requestId: "r-9", retryAfter: undefined };
  assert.deepEqual({ ...error }, facts);
});

const UNREADABLE = ["event: error\ndata: {}", "event: error\ndata: x", "data: {", "data: null", "data: 1"];

for (const text of UNREADABLE) {
  test(`${JSON.stringify(text)} is an unexpected answer`, async () => {
    const client = answering(`${text}\n\n${stream(ANSWER)}`);

    const [found, { code, requestId }] = await broken(client.streamMessages(REQUEST));

    assert.deepEqual([found, code, requestId], [[], "unexpected_answer", "r-1"]);
  });
}

for (const text of ["", ": still there\n\n", sse(delta("a")), sse(delta("a")) + sse(STOP).trimEnd()]) {
  test(`a stream that ends after ${JSON.stringify(text.slice(-25))} was cut off`, async () => {
    const [, error] = await broken(answering(text).streamMessages(REQUEST));

    assert.deepEqual([error.status, error.code, error.message], [0, "network_error", "The answer was cut off."]);
  });
}

test("a connection that breaks was cut off with a cause, and does no harm after message_stop", async () => {
  const cause = new TypeError("terminated");
  const outcomes = [];
  for (const text of [sse(delta("a")), sse(STOP)]) {
    const network = wire();
    const reading = collect(new LumenClient({ fetch: network.fetch }).streamMessages(REQUEST)).catch((error) => error);
    await quiet();
    network.send(text);
    await quiet();
    network.fail(cause);
    outcomes.push(await reading);
  }

  const [error, events] = outcomes;
  assert.deepEqual([error.code, error.message, error.cause], ["network_error", "The answer was cut off.", cause]);
  assert.deepEqual(events, [STOP]);
});

// --- Exchanges. ---

test("onExchange sees one exchange for a stream when it is over, however it ends, without the answer", async () => {
  const seen = [];
  const onExchange = ({ durationMs, ...exchange }) => (assert(durationMs >= 0), seen.push(exchange));
  const clientOf = (text) => answering(text, STREAM, onExchange);

  for await (const event of clientOf(stream(ANSWER)).streamMessages(REQUEST)) assert(event && seen.length === 0);
  for await (const event of clientOf(stream(ANSWER)).streamMessages(REQUEST)) if (event) break;
  const [, error] = await broken(clientOf(ERROR_EVENT).streamMessages(REQUEST));

  const requestBody = { ...REQUEST, stream: true };
  const exchange = { method: "POST", path: "/v1/llm/messages", requestBody, status: 200, requestId: "r-1" };
  assert.deepEqual(seen, [exchange, exchange, { ...exchange, error }]);
});

test("onExchange sees the refusal of a stream as that of any call", async () => {
  const seen = [];
  const client = new LumenClient({ fetch: async () => answer(503), onExchange: (exchange) => seen.push(exchange) });

  const [, error] = await broken(client.streamMessages(REQUEST));

  const [{ status, responseBody }] = seen;
  assert.deepEqual([seen.length, status, responseBody.error.code, seen[0].error], [1, 503, "code_503", error]);
});
