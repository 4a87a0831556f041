import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { TranscriptError, transcriptHash, transcriptPayload } from "lumen-client/transcript-hash";

const vectors = JSON.parse(await readFile(new URL("../../../tests/vectors/transcript_hash.json", import.meta.url)));

const says = (...contents) => contents.map((content) => ({ role: "user", content }));

for (const { name, messages, payload, hash, error } of vectors) {
  if (error) {
    test(`refused: ${name}`, async () => {
      assert.throws(() => transcriptPayload(messages), TranscriptError);
      await assert.rejects(transcriptHash(messages), TranscriptError);
    });
  } else {
    test(`hashed: ${name}`, async () => {
      assert.equal(transcriptPayload(messages), payload);
      assert.equal(await transcriptHash(messages), hash);
    });
  }
}

test("there are many vectors", () => {
  assert.ok(vectors.length >= 80);
});

test("white space is what this engine's \\s matches, in all of Unicode", () => {
  const characters = Array.from({ length: 0x110000 }, (_, code) => String.fromCodePoint(code));
  const messages = characters.map((content) => ({ role: "user", content }));
  const contents = transcriptPayload(messages).split("\n").filter((_, line) => line % 3 === 1);

  assert.equal(contents.length, 0x110000);
  assert.deepEqual(characters.filter((_, code) => contents[code] === ""), characters.filter((one) => /^\s$/.test(one)));
});

test("the payload is well-formed text", () => {
  assert.equal(transcriptPayload(says("\ud83d", "\ude00 \ud83d\ude00")), "user\n\ufffd\n---\nuser\n\ufffd \u{1f600}");
});

test("halves of a pair are not joined across messages", () => {
  assert.equal(transcriptPayload(says("\ud83d", "\ude00")), "user\n\ufffd\n---\nuser\n\ufffd");
});

test("what JSON cannot say is refused", async () => {
  const hole = says("a", "b", "c");
  delete hole[1];
  const refused = {
    "nothing": undefined,
    "a hole in the list": hole,
    "a list of holes": new Array(3),
    "a set": new Set(says("a")),
    "an object like a list": { length: 1, 0: says("a")[0] },
    "a message that is undefined": [undefined],
    "a message that is a function": [() => "a"],
    "a content that is undefined": [{ role: "user", content: undefined }],
    "a content that is a String object": [{ role: "user", content: new String("a") }],
    "a role that is a String object": [{ role: new String("user"), content: "a" }],
    "a role that is a symbol": [{ role: Symbol("user"), content: "a" }],
  };
  for (const [name, messages] of Object.entries(refused)) {
    assert.throws(() => transcriptPayload(messages), TranscriptError, name);
    await assert.rejects(transcriptHash(messages), TranscriptError, name);
  }
});

test("an error says where, and nothing of the conversation", () => {
  const refused = [
    [[], "a transcript is a list of at least one message"],
    [[...says("a"), { role: "tool", content: "b" }], "messages[1].role must be one of system, user, assistant"],
    [[...says("a", "b"), { role: "user" }], "messages[2].content must be text"],
  ];
  for (const [messages, message] of refused) {
    assert.throws(() => transcriptPayload(messages), { name: "TranscriptError", message });
  }
});

test("messages are not changed", async () => {
  const messages = [Object.freeze({ role: "user", content: " a\n" })];

  await transcriptHash(Object.freeze(messages));

  assert.deepEqual(messages, says(" a\n"));
});

test("hashing twice, and many at once, gives the same", async () => {
  const hashes = await Promise.all(Array.from({ length: 100 }, () => transcriptHash(says("a  b", "", "c"))));

  assert.equal(new Set(hashes).size, 1);
});

test("fifty megabytes in one word or one run of white space are hashed", async () => {
  assert.equal((await transcriptHash(says("x".repeat(5e7)))).length, 64);
  assert.equal(await transcriptHash(says(" ".repeat(5e7))), await transcriptHash(says("")));
});

const megabytes = {
  "prose": says("I want to feel calmer today. ".repeat(1e6 / 29)),
  "a run of white space after every letter": says("a ".repeat(1e6 / 2)),
  "ideographs and their spaces": says("\u4e00\u3000".repeat(1e6 / 6)),
  "unpaired surrogates between white space": says("\ud800 ".repeat(1e6 / 4)),
  "empty messages": says(...new Array(1e5).fill("")),
  "tiny messages": says(...new Array(77_000).fill("\ud800")),
};

for (const [name, messages] of Object.entries(megabytes)) {
  test(`a megabyte is hashed within a fraction of a second: ${name}`, async () => {
    const took = [];
    for (let turn = 0; turn < 5; turn++) {
      const began = performance.now();
      await transcriptHash(messages);
      took.push(performance.now() - began);
    }

    // Under 100 ms on a machine that does nothing else; here other tests may run at the same time.
    assert.ok(Math.min(...took) < 300, `${Math.min(...took)} ms`);
  });
}
