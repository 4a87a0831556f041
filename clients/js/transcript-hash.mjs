/**
 * The transcript hash of Lumen, for browsers and Node, without dependencies.
 * Rules: docs/transcript-hash.md in Lumen's repository. Vectors: tests/vectors/transcript_hash.json there.
 */

const ROLES = ["system", "user", "assistant"];

// What ECMAScript's \s does not match, written out: engines with another version of Unicode must agree.
const WORD = /[^\t-\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]+/g;

/** There is no transcript to hash: the list is empty, or a message is none. */
export class TranscriptError extends Error {
  name = "TranscriptError";
}

/**
 * SHA-256 of the payload. Needs Web Crypto, which browsers have on https and on localhost.
 *
 * @param {readonly {role: "system" | "user" | "assistant", content: string}[]} messages other members do not count
 * @returns {Promise<string>} 64 lower-case hexadecimal digits; rejects as transcriptPayload() throws
 */
export async function transcriptHash(messages) {
  const bytes = new TextEncoder().encode(transcriptPayload(messages));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * What is hashed: three lines to a message, its role, its normalised content and "---", the last without "\n---".
 *
 * @param {readonly {role: "system" | "user" | "assistant", content: string}[]} messages other members do not count
 * @returns {string} well-formed text, to be encoded as UTF-8
 * @throws {TranscriptError} when the list is empty, a role is unknown or a content is no text
 */
export function transcriptPayload(messages) {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new TranscriptError("a transcript is a list of at least one message");
  }
  // Not messages.map(): it leaves out the holes of an array, and the hash would be of something else.
  return Array.from(messages, lines).join("\n---\n").toWellFormed();
}

function lines(message, number) {
  const { role, content } = message ?? {};
  if (!ROLES.includes(role)) {
    throw new TranscriptError(`messages[${number}].role must be one of ${ROLES.join(", ")}`);
  }
  if (typeof content !== "string") {
    throw new TranscriptError(`messages[${number}].content must be text`);
  }
  // Its \r\n need no step of their own: they are white space like all other.
  const normalized = (content.match(WORD) ?? []).join(" ");
  return `${role}\n${normalized}`;
}
