/** A client of the Lumen API for browsers and Node. Every method may throw LumenError. Times are RFC 3339. */
export class LumenClient {
  constructor(options?: LumenClientOptions);

  /** Calls that wait for delivery. Nothing is delivered before `outbox.start()`, or `outbox.flush()`. */
  readonly outbox: Outbox;

  /** Mails a magic link. `magic_link` is there in development alone. */
  requestLink(email: string): Promise<Ok & { magic_link?: string }>;

  /** Signs in with a link's token, once. The outbox then belongs to who has signed in. */
  verify(token: string): Promise<Ok>;

  /** Who is signed in, and until when. Throws with status 401 when nobody is. */
  session(): Promise<Ok & SignIn>;

  /** Ends this sign-in. What is in the outbox stays there until the same user signs in again. */
  logout(): Promise<Ok>;

  /** Ends every sign-in of this user, on all devices. */
  logoutAll(): Promise<Ok & { revoked: number }>;

  /**
   * Records that a session has begun; the time is now unless given. Resolves when this is stored in the outbox.
   * Throws with code "unauthorized" when no user is known, and "storage_error" when it could not be stored.
   */
  startSession(sessionId: string, options?: { startedAt?: string | Date }): Promise<OutboxItem>;

  /** Records that a session has ended, likewise. `transcriptHash`: see transcript-hash.mjs. */
  endSession(sessionId: string, options: { transcriptHash: string; endedAt?: string | Date }): Promise<OutboxItem>;

  /** A page of the user's sessions, newest first. `limit`: 1 to 100, or 20; `cursor`: the `next_cursor` before. */
  listSessions(options?: { limit?: number; cursor?: string | null }): Promise<Ok & SessionPage>;

  /** All sessions, newest first, fetched a page at a time. */
  allSessions(): AsyncGenerator<Session, void, undefined>;

  /**
   * The model's answer, when it is complete, which takes minutes at worst. Throws what `signal` is aborted with.
   * A long answer is better asked for as a stream: browsers and Node give up after some minutes without a byte.
   */
  messages(request: MessagesRequest, options?: { signal?: AbortSignal }): Promise<ModelMessage>;

  /**
   * The model's answer, event by event. The request ends with the loop: a `break` ends it too, and so does `signal`,
   * at once and with what it is aborted with. An answer that breaks off, or stays silent for 75 s, throws with code
   * "network_error"; one that fails half-way throws the server's error. What has come until then is good.
   */
  streamMessages(
    request: MessagesRequest,
    options?: { signal?: AbortSignal },
  ): AsyncGenerator<ModelEvent, void, undefined>;

  /** Tokens of today (UTC): spent, set aside for calls that are under way, and how many there are. */
  usage(): Promise<Ok & Usage>;

  /** Everything that is stored about the user. */
  exportAccount(): Promise<Ok & Account>;

  /**
   * Deletes the account with everything in it, and what is in the user's outbox.
   * Throws with code "another_user" if somebody else has signed in since this client's last `session()`.
   */
  deleteAccount(): Promise<Ok>;
}

export interface LumenClientOptions {
  /** Origin of the API; "" is the page's own. */
  baseUrl?: string;
  fetch?: typeof globalThis.fetch;
  /** Where the outbox is kept: localStorage by default; where there is none, memory, which ends with the page. */
  storage?: OutboxStorage;
  /** Called after each request, however it ended. */
  onExchange?: (exchange: Exchange) => void;
}

/** Like localStorage. With `key` and `length` several processes may share it; without, an index is kept in it. */
export interface OutboxStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
  key?(index: number): string | null;
  readonly length?: number;
}

/** A request and what came of it. */
export interface Exchange {
  method: string;
  /** With the query. */
  path: string;
  /** Of a model call it is the conversation, which does not belong into a log. */
  requestBody?: unknown;
  /** 0: there was no answer. */
  status: number;
  /** Read from JSON; text if it is none. Nothing for a stream of events, which nobody collects. */
  responseBody?: unknown;
  requestId?: string;
  /** Until the end of the answer. */
  durationMs: number;
  /** No LumenError but a signal's reason if a model call was aborted. */
  error?: unknown;
}

/** The calls of one user that the server does not have yet. It lives in the storage, so it survives a reload. */
export class Outbox extends EventTarget {
  private constructor();

  /** Whose it is: the last user that is known to have signed in, until logout. */
  readonly userId: string | undefined;

  /** What waits, oldest first. */
  readonly pending: OutboxItem[];

  /** Tries now. Never throws. `pending`: how many are left. */
  flush(): Promise<{ delivered: number; rejected: number; pending: number }>;

  /** Delivers from now on by itself: at once, on `online`, after a sign-in, and with backoff after failures. */
  start(): void;

  /** Leaves delivery to `flush()`. */
  stop(): void;

  addEventListener<K extends keyof OutboxEvents>(
    type: K,
    listener: (this: Outbox, event: OutboxEvents[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  removeEventListener<K extends keyof OutboxEvents>(
    type: K,
    listener: (this: Outbox, event: OutboxEvents[K]) => void,
    options?: boolean | EventListenerOptions,
  ): void;
}

export interface OutboxEvents {
  /** The server has it. */
  delivered: Event & { item: OutboxItem; response: Ok & Partial<Session> };
  /** The server refused it, and would again (400, 403, 409, 413, 415): it is gone. */
  rejected: Event & { item: OutboxItem; error: LumenError };
  /** `pending` may be another now. */
  changed: Event;
}

export interface OutboxItem {
  id: string;
  kind: "start" | "end";
  body: { session_id: string; started_at?: string; transcript_hash?: string; ended_at?: string };
  /** Grows by one with each item. */
  position: number;
  /** How often sending it has failed since the page was loaded. */
  attempts: number;
}

/** An answer that is no success, or none at all. `message` is a sentence for a person. */
export class LumenError extends Error {
  constructor(
    message: string,
    facts?: { status?: number; code?: string; requestId?: string; retryAfter?: number; cause?: unknown },
  );
  /** HTTP status; 0 when there was no answer, or it broke off; 200 when a stream ended with an error. */
  readonly status: number;
  /**
   * The contract's code; or of this client: "network_error", "unexpected_answer" (not the API's: a proxy's page),
   * "storage_error", "another_user".
   */
  readonly code: string;
  readonly requestId?: string;
  /** Seconds to wait before asking again. */
  readonly retryAfter?: number;
}

export interface Ok {
  status: "ok";
}

export interface SignIn {
  user_id: string;
  email: string;
  expires_at: string;
}

export interface Session {
  session_id: string;
  started_at: string | null;
  ended_at: string | null;
  transcript_hash: string | null;
}

export interface SessionPage {
  sessions: Session[];
  /** null: this is the last page. */
  next_cursor: string | null;
}

/** As Anthropic's Messages API has it. Whether it is streamed is the method's to say. */
export interface MessagesRequest {
  model: string;
  /** The first one is the user's. */
  messages: readonly { role: "user" | "assistant"; content: string | readonly TextBlock[] }[];
  /** Tokens of the answer, at most. */
  max_tokens: number;
  system?: string | readonly TextBlock[];
  /** 0 to 1. */
  temperature?: number;
  /** At most four. */
  stop_sequences?: readonly string[];
}

export interface TextBlock {
  type: "text";
  text: string;
}

export interface ModelMessage {
  id: string;
  type: "message";
  role: "assistant";
  model: string;
  content: TextBlock[];
  stop_reason: "end_turn" | "max_tokens" | "stop_sequence" | (string & {}) | null;
  stop_sequence: string | null;
  usage: { input_tokens: number; output_tokens: number };
}

/** The provider's, unchanged. Others may come between: pass over a `type` that you do not know. */
export type ModelEvent =
  | { type: "message_start"; message: ModelMessage }
  | { type: "content_block_start"; index: number; content_block: TextBlock }
  | { type: "content_block_delta"; index: number; delta: { type: "text_delta"; text: string } }
  | { type: "content_block_stop"; index: number }
  | {
      type: "message_delta";
      delta: Pick<ModelMessage, "stop_reason" | "stop_sequence">;
      usage: { output_tokens: number };
    }
  | { type: "message_stop" }
  | { type: "ping" };

export interface Usage {
  used: number;
  reserved: number;
  limit: number;
  resets_at: string;
}

export interface Account {
  user: { user_id: string; email: string; created_at: string };
  links: Period[];
  sign_ins: Period[];
  sessions: Session[];
  /** Tokens of the model, by UTC day. */
  usage: { day: string; tokens: number }[];
  /** Tokens set aside for calls that have not been settled yet. */
  reservations: { day: string; tokens: number; deadline: string }[];
}

export interface Period {
  created_at: string;
  expires_at: string;
}
