/** What LumenClient has to send, kept until the server has it. Types: lumen-client.d.ts. */

import { LumenError, anotherUser } from "./lumen-error.mjs";

const KINDS = new Set(["start", "end"]);
const USER_KEY = "lumen.user_id";
const INDEX_KEY = "lumen.outbox";

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 60_000;
const LONGEST_TIMER_MS = 2 ** 31 - 1; // setTimeout takes anything above for 1 ms

// The contract: what no retry can mend. A sign-in mends 401, a deployment 404 and 405.
const HOPELESS = new Set([400, 403, 409, 413, 415]);

/** One user's calls: in order for each session, again and again until the server has answered for good. */
export class Outbox extends EventTarget {
  #storage;
  #items;
  #signedInUser;
  #send;
  #userId;
  #attempts = new Map(); // by the items' ids
  #failures = 0; // deliveries in a row
  #timer;
  #held = false; // by a Retry-After that is not over
  #started = false;
  #delivery;
  #again = false;

  /** `signedInUser()`: whose the cookie is; `send(item)`: the server's answer. Both throw LumenError. */
  constructor({ storage = defaultStorage(), signedInUser, send }) {
    super();
    this.#storage = storage;
    this.#items = new Items(storage);
    this.#signedInUser = signedInUser;
    this.#send = send;
    this.#userId = orUndefined(() => storage.getItem(USER_KEY)) ?? undefined; // known after a reload without network
  }

  get userId() {
    return this.#userId;
  }

  get pending() {
    if (!this.#userId) return [];
    const items = this.#items.under(prefixOf(this.#userId));
    return items.map((item) => ({ ...item, attempts: this.#attempts.get(item.id) ?? 0 }));
  }

  /** From now on `userId` is signed in, or with undefined nobody. The items of the user before stay stored. */
  belongTo(userId) {
    this.#userId = userId;
    orUndefined(() => (userId ? this.#storage.setItem(USER_KEY, userId) : this.#storage.removeItem(USER_KEY)));
    this.#changed();
    this.#tryNow();
  }

  /** Stores a call of `kind` "start" or "end", and returns it as an item. */
  async add(kind, body) {
    if (!this.#userId) throw new LumenError("Sign in first.", { status: 401, code: "unauthorized" });
    const id = crypto.randomUUID();
    const position = 1 + (this.pending.at(-1)?.position ?? 0); // no time, because clocks are set back
    let cause;
    try {
      this.#items.put(prefixOf(this.#userId) + id, { kind, body, position });
    } catch (error) {
      cause = error;
    }
    const item = this.pending.find((stored) => stored.id === id);
    if (!item) throw new LumenError("The browser could not store this.", { code: "storage_error", cause });
    this.#changed();
    this.#tryNow();
    return item;
  }

  /** Forgets everything that is stored for `userId`. */
  clear(userId) {
    this.#items.clear(prefixOf(userId));
    this.#changed();
  }

  start() {
    this.#started = true;
    globalThis.addEventListener?.("online", this.#tryNow);
    globalThis.addEventListener?.("storage", this.#onStorage); // what another tab has changed
    this.#tryNow();
  }

  stop() {
    this.#started = false;
    globalThis.removeEventListener?.("online", this.#tryNow);
    globalThis.removeEventListener?.("storage", this.#onStorage);
    this.#cancelRetry();
  }

  flush() {
    return (this.#delivery ??= this.#deliver());
  }

  #tryNow = () => {
    if (!this.#started || this.#held) return;
    if (this.#delivery) this.#again = true;
    else this.flush();
  };

  #onStorage = ({ key }) => {
    if (this.#userId && key?.startsWith(prefixOf(this.#userId))) this.#changed();
  };

  async #deliver() {
    this.#cancelRetry();
    this.#again = false;
    const { failure, ...outcomes } = await this.#sendAll();
    this.#failures = failure ? this.#failures + 1 : 0;
    if (failure && failure.status !== 401) this.#scheduleRetry(failure.retryAfter);
    this.#delivery = undefined;
    if (this.#again) this.#tryNow();
    return { ...outcomes, pending: this.pending.length };
  }

  async #sendAll() {
    const userId = this.#userId;
    const result = { delivered: 0, rejected: 0, failure: undefined };
    const tried = new Set(); // ids: what the store does not let go of is not sent for ever
    const stuck = new Set(); // session ids: the rest of a session waits for what failed
    const isNext = ({ id, body }) => !tried.has(id) && !stuck.has(body.session_id);
    let item;
    while (this.#userId === userId && (item = this.pending.find(isNext))) {
      tried.add(item.id);
      try {
        const [outcome, answer] = await withSignInLock("shared", () => this.#sendFor(userId, item));
        result[outcome] += 1;
        this.#items.remove(prefixOf(userId) + item.id);
        this.#attempts.delete(item.id);
        this.dispatchEvent(Object.assign(new Event(outcome), { item, ...answer }));
      } catch (error) {
        result.failure = error;
        stuck.add(item.body.session_id);
        this.#attempts.set(item.id, item.attempts + 1);
        if (concernsAll(error)) break;
      } finally {
        this.#changed();
      }
    }
    return result;
  }

  /** Sends `item` if its user is the one who is signed in. Throws what another attempt may mend. */
  async #sendFor(userId, item) {
    // The cookie is shared with other tabs, and the server takes an item for that of whoever is signed in.
    if ((await this.#signedInUser()) !== userId) throw anotherUser();
    try {
      return ["delivered", { response: await this.#send(item) }];
    } catch (error) {
      if (!HOPELESS.has(error.status)) throw error;
      return ["rejected", { error }];
    }
  }

  /** Exponential backoff with full jitter, counted from the end of Retry-After (seconds). */
  #scheduleRetry(retryAfter = 0) {
    if (!this.#started) return;
    const backoff = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (this.#failures - 1));
    const wait = Math.min(LONGEST_TIMER_MS, retryAfter * 1000 + Math.random() * backoff);
    this.#held = retryAfter > 0;
    this.#timer = setTimeout(() => this.flush(), wait);
    this.#timer.unref?.(); // in Node a timer would keep the process alive
  }

  #cancelRetry() {
    clearTimeout(this.#timer);
    this.#held = false;
  }

  #changed() {
    this.dispatchEvent(new Event("changed"));
  }
}

/**
 * Items in a store, each under a key of its own, written once and removed once. Tabs that share one list lose each
 * other's items, with navigator.locks too: Chromium's processes learn that a lock is free before they learn what was
 * written to localStorage under it.
 */
class Items {
  #storage;
  #listsKeys;

  constructor(storage) {
    this.#storage = storage;
    this.#listsKeys = typeof storage.key === "function"; // as localStorage does; for others an index is kept
  }

  /** In the order in which they were put. What is no item is passed over. */
  under(prefix) {
    const read = (key) =>
      orUndefined(() => ({ ...JSON.parse(this.#storage.getItem(key)), id: key.slice(prefix.length) }));
    return this.#keys(prefix).map(read).filter(isItem).sort((a, b) => a.position - b.position);
  }

  put(key, item) {
    if (!this.#listsKeys) this.#writeIndex([...this.#keys(""), key]);
    this.#storage.setItem(key, JSON.stringify(item));
  }

  remove(key) {
    orUndefined(() => this.#storage.removeItem(key));
    if (!this.#listsKeys) orUndefined(() => this.#writeIndex(this.#keys("").filter((other) => other !== key)));
  }

  clear(prefix) {
    for (const key of this.#keys(prefix)) this.remove(key);
  }

  #keys(prefix) {
    const storage = this.#storage;
    const keys = orUndefined(() =>
      this.#listsKeys
        ? Array.from({ length: storage.length }, (_, number) => storage.key(number))
        : JSON.parse(storage.getItem(INDEX_KEY)),
    );
    return Array.isArray(keys) ? keys.filter((key) => typeof key === "string" && key.startsWith(prefix)) : [];
  }

  #writeIndex(keys) {
    this.#storage.setItem(INDEX_KEY, JSON.stringify(keys));
  }
}

/**
 * Runs `action` while sign-ins stand still: from asking who is signed in until an item is sent ("shared") no tab signs
 * somebody in ("exclusive"). Where there are no Web Locks (Node, plain http), asking has to do.
 */
export function withSignInLock(mode, action) {
  const locks = globalThis.navigator?.locks;
  return locks ? locks.request("lumen.sign-in", { mode }, action) : action();
}

const prefixOf = (userId) => `${INDEX_KEY}.${userId}.`;

const isItem = (value) => KINDS.has(value?.kind) && Boolean(value.body) && Number.isSafeInteger(value.position);

/** Nothing else would get through now: nobody is there, asks for time, or knows who is calling. */
const concernsAll = ({ status, retryAfter }) => !status || status === 401 || retryAfter !== undefined;

function defaultStorage() {
  const storage = orUndefined(() => globalThis.localStorage); // throws where the browser blocks it
  return typeof storage?.getItem === "function" ? storage : memory();
}

function memory() {
  const values = new Map();
  return {
    getItem: (key) => values.get(key) ?? null,
    setItem: (key, value) => void values.set(key, value),
    removeItem: (key) => void values.delete(key),
  };
}

/** The result of `action`, or undefined if it throws: stores throw when they are full, blocked or hold garbage. */
function orUndefined(action) {
  try {
    return action();
  } catch {
    return undefined;
  }
}
