/** Why a call did not succeed. Types: lumen-client.d.ts. */
export class LumenError extends Error {
  name = "LumenError";

  constructor(message, { status = 0, code, requestId, retryAfter, cause } = {}) {
    super(message, { cause });
    Object.assign(this, { status, code, requestId, retryAfter });
  }
}

export const anotherUser = () => new LumenError("Another user is signed in.", { status: 401, code: "another_user" });
