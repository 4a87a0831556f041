/** One message of a transcript. Other members do not count. */
export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** There is no transcript to hash: the list is empty, or a message is none. */
export class TranscriptError extends Error {
  name: "TranscriptError";
}

/**
 * SHA-256 of the payload, as 64 lower-case hexadecimal digits.
 * Needs Web Crypto, which browsers have on https and on localhost. Rejects as transcriptPayload() throws.
 */
export function transcriptHash(messages: readonly Message[]): Promise<string>;

/**
 * What is hashed: three lines to a message, its role, its normalised content and "---", the last without "\n---".
 * Throws TranscriptError when the list is empty, a role is unknown or a content is no text.
 */
export function transcriptPayload(messages: readonly Message[]): string;
