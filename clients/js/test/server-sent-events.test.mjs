/** Server-sent events: what the standard says about lines, fields and ends, however the bytes are cut. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { serverSentEvents } from "../server-sent-events.mjs";

const bytesOf = (text) => new TextEncoder().encode(text);

/** `bytes` in pieces of `size`. */
function* cut(bytes, size) {
  for (let start = 0; start < bytes.length; start += size) yield bytes.subarray(start, start + size);
}

async function read(pieces) {
  const events = [];
  for await (const { type, data } of serverSentEvents(pieces)) events.push(`${type}: ${data}`);
  return events;
}

// What is sent, and the events in it, as "type: data".
const STREAMS = {
  "an event has a type and data": ["event: ping\ndata: {}\n\n", ["ping: {}"]],
  "an event without a type is a message": ["data: a\n\n", ["message: a"]],
  "an empty type is none": ["event\ndata: a\n\nevent:\ndata: b\n\n", ["message: a", "message: b"]],
  "the last type counts, and for one event alone": ["event: a\nevent: b\ndata\n\ndata: c\n\n", ["b: ", "message: c"]],
  "lines of data are joined by an LF": ["data: a\ndata:b\ndata\ndata:\n\n", ["message: a\nb\n\n"]],
  "one space after the colon does not count": ["data:  a \n\n", ["message:  a "]],
  "later colons are data": ["data: {\"a\":1}\ndata::\n\n", ["message: {\"a\":1}\n:"]],
  "an event without data is none, and its type is forgotten": ["event: a\n\ndata: b\n\n", ["message: b"]],
  "data that is empty is data": ["data\n\ndata:\n\n", ["message: ", "message: "]],
  "a comment is passed over, inside an event too": [": \n\n:\ndata: a\n:data: b\n\n:", ["message: a"]],
  "other fields are passed over": ["id: 1\nretry: 5\nDATA: a\n data: b\ndata : c\ndata: d\n\n", ["message: d"]],
  "lines end with CR LF": ["event: a\r\ndata: b\r\ndata: c\r\n\r\n", ["a: b\nc"]],
  "lines end with CR": ["event: a\rdata: b\rdata: c\r\rdata: d\r\r", ["a: b\nc", "message: d"]],
  "lines end with each in turn": ["data: a\r\ndata: b\rdata: c\n\r\ndata: d\n\r", ["message: a\nb\nc", "message: d"]],
  "an LF and a CR are two line ends": ["data: a\n\rdata: b\n\n", ["message: a", "message: b"]],
  "no other white space ends a line": ["data: a\u2028b\u0085c\vd\fe\0\n\n", ["message: a\u2028b\u0085c\vd\fe\0"]],
  "a byte order mark is taken away": ["\ufeffdata: a\n\ndata: \ufeff\n\n", ["message: a", "message: \ufeff"]],
  "a second one is part of the name": ["\ufeff\ufeffdata: a\n\ndata: b\n\n", ["message: b"]],
  "characters of two, three and four bytes": ["data: ü€\u{1f33f}\n\n", ["message: ü€\u{1f33f}"]],
  "an event that no blank line ends is dropped": ["data: a\n\ndata: b\n", ["message: a"]],
  "a line that nothing ends is dropped": ["data: a\n\ndata: b", ["message: a"]],
  "a stream of nothing": ["", []],
};

for (const [claim, [text, events]] of Object.entries(STREAMS)) {
  test(`${claim}, in pieces of every size`, async () => {
    const bytes = bytesOf(text);
    for (let size = 1; size <= bytes.length + 1; size += 1) {
      assert.deepEqual(await read(cut(bytes, size)), events, `pieces of ${size} bytes`);
    }
  });
}

test("empty pieces change nothing, also between CR and LF and inside a character", async () => {
  const pieces = [...cut(bytesOf("data: ü\r\ndata: b\r\n\r\n"), 1)].flatMap((piece) => [piece, new Uint8Array()]);

  assert.deepEqual(await read(pieces), ["message: ü\nb"]);
});

test("what is no UTF-8 becomes a replacement character and breaks nothing else", async () => {
  const bytes = Uint8Array.from([...bytesOf("data: "), 0xff, 0xe2, 0x82, ...bytesOf("\n\ndata: b\n\n")]);

  for (const size of [1, 2, 100]) {
    assert.deepEqual(await read(cut(bytes, size)), ["message: \ufffd\ufffd", "message: b"]);
  }
});

test("an event is there as soon as its blank line is, with CR too", async () => {
  for (const text of ["data: a\n\n", "data: a\r\r", "data: a\r\n\r"]) {
    const events = serverSentEvents((async function* () {
      yield bytesOf(text);
      assert.fail("asked for more than the event needs");
    })());

    assert.deepEqual((await events.next()).value, { type: "message", data: "a" });
  }
});

test("who stops reading lets go of the pieces", async () => {
  let released = false;
  async function* pieces() {
    try {
      for (;;) yield bytesOf("data: a\n\n");
    } finally {
      released = true;
    }
  }

  for await (const event of serverSentEvents(pieces())) if (event) break;

  assert(released);
});

const MEGABYTE = 1 << 20;
const LONG = {
  "one line": bytesOf(`data: ${"x".repeat(4 * MEGABYTE)}\n\n`),
  "a name without a colon": bytesOf(`${"x".repeat(4 * MEGABYTE)}\n\ndata: a\n\n`),
  "lines of data": bytesOf(`${"data: x\n".repeat(MEGABYTE / 2)}\n`),
  "blank lines": bytesOf(`data: x\n\n${"\r\n".repeat(MEGABYTE)}`),
};

for (const [name, bytes] of Object.entries(LONG)) {
  // A reader that begins its line anew with each piece would take minutes.
  test(`megabytes as ${name}, in small pieces, are read within seconds`, { timeout: 20_000 }, async () => {
    assert.equal((await read(cut(bytes, 32))).length, 1);
    assert.equal((await read([bytes])).length, 1);
  });
}
