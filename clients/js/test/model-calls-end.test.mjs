/** How LumenClient's model calls end: on a scripted network and clock, and with a real server. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

import { LumenClient } from "../lumen-client.mjs";
import { quiet } from "./scripted.mjs";
import { ANSWER, REQUEST, STOP, broken, collect, delta, refused, sse, stream, wire } from "./streams.mjs";

// --- Breaks and aborts. ---

test("an abort ends the loop at once, and what had come in the same piece is not read any more", async () => {
  const network = wire();
  const stop = new AbortController();
  const events = new LumenClient({ fetch: network.fetch }).streamMessages(REQUEST, { signal: stop.signal });
  const first = events.next();
  await quiet();
  network.send(stream(ANSWER));
  assert.deepEqual((await first).value, ANSWER[0]);

  stop.abort();

  assert(network.init.signal.aborted);
  await assert.rejects(events.next(), { name: "AbortError" });
  assert.deepEqual(await events.next(), { value: undefined, done: true });
});

test("a break ends the request, and a signal that outlives it is let go of", async (t) => {
  const network = wire();
  const { signal } = new AbortController();
  const added = t.mock.method(signal, "addEventListener");
  const client = new LumenClient({ fetch: network.fetch });
  const reading = (async () => {
    for await (const event of client.streamMessages(REQUEST, { signal })) return event;
  })();
  await quiet();
  network.send(stream(ANSWER));

  assert.deepEqual(await reading, ANSWER[0]);

  assert(network.init.signal.aborted);
  assert(added.mock.calls[0].arguments[2].signal.aborted); // which removes the listener
});

test("nothing is sent before the first event is asked for", async () => {
  const network = wire();

  new LumenClient({ fetch: network.fetch }).streamMessages(REQUEST);
  await quiet();

  assert.equal(network.url, undefined);
});

// --- Time. ---

test("a stream is given up when nothing has come for 75 s, and comments are something", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const network = wire();
  const reading = broken(new LumenClient({ fetch: network.fetch }).streamMessages(REQUEST));
  await quiet();
  for (let minute = 0; minute < 20; minute += 1) {
    t.mock.timers.tick(74_999);
    network.send(minute ? ":\n" : sse(delta("a")));
    await quiet();
  }
  assert(!network.init.signal.aborted);

  t.mock.timers.tick(75_000);

  const [found, error] = await reading;
  assert.deepEqual([found, error.code, error.message], [[delta("a")], "network_error", "The answer was cut off."]);
  assert.equal(error.cause.name, "TimeoutError");
});

test("a consumer may take longer over an event than the server may", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const network = wire();
  const events = new LumenClient({ fetch: network.fetch }).streamMessages(REQUEST);
  const first = events.next();
  await quiet();
  network.send(sse(delta("a")));
  await first;

  t.mock.timers.tick(600_000);
  network.send(sse(STOP));
  network.end();

  assert.deepEqual(await collect(events), [STOP]);
});

for (const [call, patience] of [["messages", 660_000], ["streamMessages", 75_000], ["usage", 10_000]]) {
  test(`${call} waits ${patience / 1000} s for an answer`, async (t) => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    let signal;
    const fetch = (_, init) => new Promise((_, reject) => {
      signal = init.signal;
      signal.addEventListener("abort", () => reject(signal.reason));
    });
    const client = new LumenClient({ fetch });
    const waiting = refused(call === "streamMessages" ? client.streamMessages(REQUEST).next() : client[call](REQUEST));
    await quiet();

    t.mock.timers.tick(patience - 1);
    assert(!signal.aborted);
    t.mock.timers.tick(1);

    const { code, message } = await waiting;
    assert.deepEqual([code, message], ["network_error", "The server could not be reached."]);
  });
}

// --- A real server. ---

/** Serves `answerTo(request, response)`, and says where. */
async function serving(t, answerTo) {
  const server = createServer(answerTo).listen(0, "127.0.0.1");
  t.after(() => (server.closeAllConnections(), server.close()));
  await once(server, "listening");
  return new LumenClient({ baseUrl: `http://127.0.0.1:${server.address().port}` });
}

test("a real server that sends one byte at a time is understood", async (t) => {
  const client = await serving(t, async (request, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" }).flushHeaders();
    response.socket.setNoDelay(true);
    for (const byte of Buffer.from(`\ufeff: hello\r\n\r\n${stream(ANSWER).replaceAll("\n", "\r\n")}`)) {
      response.write(Buffer.of(byte));
      await new Promise(setImmediate);
    }
    response.end();
  });

  assert.deepEqual(await collect(client.streamMessages(REQUEST)), ANSWER);
});

for (const how of ["break", "abort"]) {
  test(`a real server notices a ${how}`, async (t) => {
    let left;
    const client = await serving(t, (request, response) => {
      left = once(response, "close");
      response.writeHead(200, { "Content-Type": "text/event-stream" });
      response.write(sse(ANSWER[0]));
    });
    const stop = new AbortController();

    const reading = (async () => {
      for await (const event of client.streamMessages(REQUEST, { signal: stop.signal })) {
        assert.deepEqual(event, ANSWER[0]);
        if (how === "break") return;
        stop.abort();
      }
    })();

    if (how === "abort") await assert.rejects(reading, { name: "AbortError" });
    await reading.catch(() => {});
    await left;
  });
}

test("a real server that dies half-way has cut the answer off", async (t) => {
  const client = await serving(t, (request, response) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write(stream(ANSWER.slice(0, 2)), () => response.destroy());
  });

  const [found, error] = await broken(client.streamMessages(REQUEST));

  assert.deepEqual(found, ANSWER.slice(0, 2));
  assert.deepEqual([error.code, error.message], ["network_error", "The answer was cut off."]);
});
