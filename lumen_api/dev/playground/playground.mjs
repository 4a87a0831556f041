/** The playground: the journey of a user, made with the client that a web app would use. */

import "./conversation.mjs";
import { $, lumen, on, say, signOut } from "./page.mjs";

let nextCursor = null;

// --- Signing in. ---

on(window, "signed-out", () => {
  $("exported").textContent = "";
  $("exported").hidden = true;
  $("signed-out").hidden = false;
  $("signed-in").hidden = true;
  for (const section of document.querySelectorAll(".for-users")) section.hidden = true;
});

async function showSignedIn(user) {
  if ($("who").textContent !== user.email) signOut(); // what is on the page may be another user's
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
  signOut();
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
    signOut();
    if (error.status !== 401) failure ??= error;
  }
  if (failure) say(failure.message, true);
}

// Another tab has signed somebody in or out; the client notes there who it is.
on(window, "storage", async ({ key }) => {
  if (key === "lumen.user_id") await arrive();
});

await arrive();
