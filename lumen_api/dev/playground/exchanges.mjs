/** The list of requests: what this page sent, and what came back. */

const NEWEST = 50;

/** Show one exchange of the client (see `onExchange` of LumenClient) on top of `list`. */
export function show(list, { method, path, requestBody, status, responseBody, requestId, durationMs }) {
  const outcome = document.createElement("span");
  outcome.className = status >= 200 && status < 300 ? "good" : "bad";
  outcome.textContent = status || "no answer";
  const summary = document.createElement("summary");
  const id = document.createElement("code");
  id.textContent = requestId ?? "";
  summary.append(`${method} ${path} `, outcome, ` ${Math.round(durationMs)} ms `, id);
  const details = document.createElement("details");
  details.append(summary);
  if (requestBody !== undefined) details.append(json("Sent", withoutWords(requestBody)));
  if (responseBody !== undefined) details.append(json("Received", responseBody));
  const item = document.createElement("li");
  item.append(details);
  list.prepend(item);
  while (list.children.length > NEWEST) list.lastElementChild.remove();
}

/** A model call without its conversation, which would stay in this list after its end. */
function withoutWords(requestBody) {
  if (!requestBody.messages) return requestBody;
  const { system, messages, ...rest } = requestBody;
  return { ...rest, messages: `the conversation (${messages.length})` };
}

function json(title, value) {
  const block = document.createElement("pre");
  block.tabIndex = 0;
  block.setAttribute("aria-label", title);
  block.textContent = `${title}\n${typeof value === "string" ? value : JSON.stringify(value, null, 2)}`;
  return block;
}
