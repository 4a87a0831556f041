/** The playground: the journey of a user, made with the client that a web app would use. */

import { show } from "./exchanges.mjs";
import { LumenClient } from "./lumen-client.mjs";
import { transcriptHash, transcriptPayload } from "./transcript-hash.mjs";

const $ = (id) => document.getElementById(id);
const lumen = new LumenClient({ onExchange: (exchange) => show($("exchanges"), exchange) });

let sessionId = null;
let messages = [];
let nextCursor = null;

// --- What the page says. ---

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

/** Run a step when `element` fires `event`; what goes wrong is said, and never lost in the console. */
function on(element, event, step) {
  element.addEventListener(event, async (fired) => {
    if (event === "submit") fired.preventDefault();
    try {
      await step(fired);
    } catch (error) {
      if (error.status === 401) showSignedOut();
      say(error.status === 0 ? "The server cannot be reached." : error.message, true);
    }
  });
}

// --- Signing in. ---

function showSignedOut() {
  $("exported").textContent = "";
  $("exported").hidden = true;
  $("signed-out").hidden = false;
  $("signed-in").hidden = true;
  for (const section of document.querySelectorAll(".for-users")) section.hidden = true;
  closeConversation();
}

async function showSignedIn(user) {
  $("who").textContent = user.email;
  $("until").dateTime = user.expires_at;
  $("until").textContent = new Date(user.expires_at).toLocaleString();
  $("signed-out").hidden = true;
  $("mail").hidden = true;
  $("signed-in").hidden = false;
  for (const section of document.querySelectorAll(".for-users")) section.hidden = false;
  lumen.outbox.start();
  showOutbox();
  await refreshSessions();
}

async function showMail(to) {
  const query = new URLSearchParams({ to });
  const answer = await fetch(`/playground/mail?${query}`);
  if (!answer.ok) return say("The link is in your mailbox.");
  const { subject } = await answer.json();
  $("mail-subject").textContent = `To ${to}: ${subject}`;
  $("mail-body").src = `/playground/mail.html?${query}`;
  $("mail").hidden = false;
  say("A mail has arrived. Click the link in it.");
}

on($("ask"), "submit", async () => {
  const email = $("email").value;
  await lumen.requestLink(email);
  await showMail(email);
});

async function signedOut(text) {
  lumen.outbox.stop();
  showSignedOut();
  say(text);
  $("email").focus();
}

on($("logout"), "click", async () => {
  await lumen.logout();
  await signedOut("Logged out.");
});

on($("logout-all"), "click", async () => {
  const { revoked } = await lumen.logoutAll();
  await signedOut(`Logged out everywhere: ${revoked} sign-in${revoked === 1 ? "" : "s"} ended.`);
});

// --- A conversation. ---

function closeConversation() {
  sessionId = null;
  messages = [];
  $("conversation").hidden = true;
  $("start").hidden = false;
}

on($("start"), "click", async () => {
  const id = crypto.randomUUID();
  await lumen.startSession(id);
  sessionId = id;
  $("session-id").textContent = id;
  $("start").hidden = true;
  $("conversation").hidden = false;
  await showTranscript();
  $("content").focus();
});

/** The messages, and the one that is being typed. */
function transcript() {
  const draft = { role: $("role").value, content: $("content").value };
  return draft.content ? [...messages, draft] : messages;
}

async function showTranscript() {
  $("messages").replaceChildren(...messages.map(listItem));
  const shown = transcript();
  $("payload").textContent = shown.length ? transcriptPayload(shown) : "Nothing yet: type a message.";
  const hash = shown.length ? await transcriptHash(shown) : "";
  // Hashing takes a moment, and a later keystroke may have been quicker.
  if (JSON.stringify(shown) === JSON.stringify(transcript())) $("hash").textContent = hash;
}

function listItem({ role, content }) {
  const speaker = document.createElement("b");
  speaker.textContent = role;
  const item = document.createElement("li");
  item.append(speaker, content);
  return item;
}

on($("content"), "input", showTranscript);
on($("role"), "change", showTranscript);

on($("say"), "submit", async () => {
  messages = transcript();
  $("content").value = "";
  $("role").value = messages.at(-1)?.role === "user" ? "assistant" : "user";
  await showTranscript();
  $("content").focus();
});

on($("end"), "click", async () => {
  const said = transcript();
  if (!said.length) return say("Type a message first: there is nothing to hash.", true);
  await lumen.endSession(sessionId, { transcriptHash: await transcriptHash(said) });
  $("content").value = "";
  closeConversation();
  $("start").focus();
  say("The session has ended. Its words were never sent.");
});

// --- The outbox. ---

function showOutbox() {
  const waiting = lumen.outbox.pending.length;
  $("outbox").textContent = waiting
    ? `${waiting} call${waiting === 1 ? " waits" : "s wait"} in the outbox for delivery.`
    : "The outbox is empty: everything is delivered.";
}

lumen.outbox.addEventListener("changed", showOutbox);
on(lumen.outbox, "delivered", async () => {
  if ($("status").classList.contains("bad")) say(""); // the server can be reached again
  await refreshSessions();
});
on(lumen.outbox, "rejected", ({ error }) => say(`The server refused a call for good: ${error.message}`, true));

// --- Sessions and account. ---

async function refreshSessions() {
  const { sessions, next_cursor: cursor } = await lumen.listSessions({ limit: 10 });
  $("session-rows").replaceChildren(...sessions.map(row));
  showList(cursor);
}

function showList(cursor) {
  nextCursor = cursor;
  const some = $("session-rows").children.length > 0;
  $("sessions").hidden = !some;
  $("no-sessions").hidden = some;
  $("more").hidden = !cursor;
}

function row({ session_id: id, started_at: began, ended_at: ended, transcript_hash: hash }) {
  const cells = [code(id), time(began), time(ended), code(hash)].map((content) => {
    const cell = document.createElement("td");
    cell.append(content);
    return cell;
  });
  const line = document.createElement("tr");
  line.append(...cells);
  return line;
}

function code(text) {
  const element = document.createElement("code");
  element.textContent = text ?? "–";
  element.title = text ?? "";
  return element;
}

function time(text) {
  if (!text) return "–";
  const element = document.createElement("time");
  element.dateTime = text;
  element.textContent = new Date(text).toLocaleString();
  return element;
}

on($("refresh"), "click", refreshSessions);

on($("more"), "click", async () => {
  const { sessions, next_cursor: cursor } = await lumen.listSessions({ limit: 10, cursor: nextCursor });
  $("session-rows").append(...sessions.map(row));
  showList(cursor);
});

on($("export"), "click", async () => {
  $("exported").textContent = JSON.stringify(await lumen.exportAccount(), null, 2);
  $("exported").hidden = false;
});

on($("delete"), "click", () => $("confirm").showModal());

on($("confirm"), "close", async () => {
  if ($("confirm").returnValue !== "delete") return;
  $("confirm").returnValue = "";
  await lumen.deleteAccount();
  await signedOut("The account is deleted.");
});

// --- The start: a link that was clicked, or a visit. ---

async function arrive() {
  const token = new URLSearchParams(location.search).get("token");
  if (location.pathname === "/login/callback") history.replaceState(null, "", "/");
  let failure;
  if (token) await lumen.verify(token).catch((error) => (failure = error));
  try {
    // Also with a link that does not work any more: somebody may be signed in already.
    await showSignedIn(await lumen.session());
    say(token ? "Signed in." : "");
  } catch (error) {
    showSignedOut();
    if (error.status !== 401) failure ??= error;
  }
  if (failure) say(failure.message, true);
}

// Another tab has signed somebody in or out; the client notes there who it is.
on(window, "storage", async ({ key }) => {
  if (key === "lumen.user_id") await arrive();
});

window.addEventListener("beforeunload", (event) => {
  if (sessionId && transcript().length) event.preventDefault(); // the conversation is nowhere else
});

await arrive();
