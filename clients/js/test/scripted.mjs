/** A network and stores whose behaviour a test writes. */

import assert from "node:assert/strict";

import { LumenClient } from "../lumen-client.mjs";

export const HASH = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

/** Answers like the service, but for what is in `script`: a status, a Response or an Error for each call in turn. */
export class Network {
  user = "ada"; // whose the cookie is; null: nobody's
  script = []; // for what the outbox sends
  sent = []; // what the outbox has sent: "start a", "end a"
  requests = []; // everything: { url, init }

  fetch = async (url, init) => {
    this.requests.push({ url, init });
    if (url.endsWith("/v1/auth/session")) return this.user ? answer(200, { user_id: this.user }) : answer(401);
    const kind = /\/v1\/sessions\/(\w+)$/.exec(url)?.[1];
    if (!kind) return answer(200, {});
    const body = JSON.parse(init.body);
    this.sent.push(`${kind} ${body.session_id}`);
    const next = this.script.shift() ?? 200;
    if (next instanceof Error) throw next;
    return typeof next === "number" ? answer(next, body) : next;
  };

  /** A page's client that knows who is signed in. */
  async page(storage = store(), options = {}) {
    const client = new LumenClient({ fetch: this.fetch, storage, ...options });
    await client.session();
    return client;
  }
}

export function answer(status, body = {}, headers = {}) {
  const error = { code: `code_${status}`, message: "So it is." };
  const content = status < 300 ? { status: "ok", ...body } : { error };
  return Response.json(content, { status, headers: { "X-Request-Id": "r-1", ...headers } });
}

/** Like localStorage. */
export function store(values = new Map()) {
  return {
    values,
    getItem: (key) => values.get(key) ?? null,
    setItem: (key, value) => void values.set(key, String(value)),
    removeItem: (key) => void values.delete(key),
    key: (number) => [...values.keys()][number] ?? null,
    get length() {
      return values.size;
    },
  };
}

/** localStorage in two of Chromium's processes: each hears of the other's changes when `exchange()` is called. */
export function storesOfTwoProcesses() {
  const changes = [];
  const views = [store(), store()];
  for (const view of views) {
    const { setItem, removeItem } = view;
    const other = views.find((candidate) => candidate !== view);
    view.setItem = (key, value) => (setItem(key, value), changes.push(() => other.values.set(key, value)));
    view.removeItem = (key) => (removeItem(key), changes.push(() => other.values.delete(key)));
  }
  return [...views, () => changes.splice(0).forEach((change) => change())];
}

/** Waits until `condition` holds, without a clock. */
export async function until(condition) {
  for (let turn = 0; turn < 200; turn += 1) {
    if (condition()) return;
    await new Promise(setImmediate);
  }
  assert.fail(`never so: ${condition}`);
}

/** Lets everything happen that waits for no clock. */
export async function quiet() {
  for (let turn = 0; turn < 20; turn += 1) await new Promise(setImmediate);
}
