/** A conversation: what is typed, what the model answers, and the hash that is left of it at the end. */

import { answerTo, usageInWords } from "./model.mjs";
import { $, lumen, on, say } from "./page.mjs";
import { transcriptHash, transcriptPayload } from "./transcript-hash.mjs";

let sessionId = null;
let messages = [];
let answering = null; // the AbortController of the answer that is coming in

/** Nothing of it stays in the page. */
function close() {
  answering?.abort();
  setAnswering(null);
  sessionId = null;
  messages = [];
  $("content").value = "";
  for (const id of ["messages", "payload", "hash", "answer", "usage"]) $(id).textContent = "";
  $("conversation").hidden = true;
  $("start").hidden = false;
}

on(window, "signed-out", close);

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

/** Make the draft a message; `next`: whose turn it is then. */
async function addDraft(next) {
  messages = transcript();
  $("content").value = "";
  $("role").value = next;
  $("content").focus();
  await showTranscript();
}

on($("add"), "click", () => addDraft($("role").value === "user" ? "assistant" : "user"));

on($("content"), "keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("say").requestSubmit();
});

// After an error, with nothing typed, it asks once more for an answer.
on($("say"), "submit", async () => {
  if (answering) return;
  if (!transcript().length) return say("Type a message first.", true);
  await Promise.all([addDraft("user"), answer()]);
});

on($("stop"), "click", () => answering?.abort());

function setAnswering(controller) {
  answering = controller;
  $("stop").hidden = !answering;
  $("send").hidden = $("add").hidden = Boolean(answering);
}

/** Let the model answer. What has come stays, also if it is stopped or fails half-way. */
async function answer() {
  const stop = new AbortController();
  const message = { role: "assistant", content: "" };
  setAnswering(stop);
  say("The model is answering …");
  try {
    for await (const text of answerTo(messages, lumen, stop.signal)) write(message, text);
    say("");
  } catch (error) {
    if (!stop.signal.aborted) throw error;
    if (answering === stop) say("Stopped. What has come stays.");
  } finally {
    if (answering === stop) await showAnswered(message); // or else the conversation is over
  }
}

/** Append a piece of the answer, without writing the whole list anew. */
function write(message, text) {
  if (message.content) {
    $("messages").lastElementChild.lastChild.appendData(text);
  } else {
    messages = [...messages, message];
    $("messages").append(listItem({ ...message, content: text }));
  }
  message.content += text;
}

async function showAnswered({ content }) {
  if (document.activeElement === $("stop")) $("content").focus(); // a button that goes would take the focus along
  setAnswering(null);
  $("answer").textContent = content; // a screen reader reads it now, in one piece
  showUsage();
  await showTranscript();
}

/** No part of the answer: without a network it shows nothing. */
async function showUsage() {
  const usage = await lumen.usage().catch(() => null);
  $("usage").textContent = usage ? usageInWords(usage) : "";
}

on($("end"), "click", async () => {
  answering?.abort();
  const said = transcript();
  if (!said.length) return say("Type a message first: there is nothing to hash.", true);
  await lumen.endSession(sessionId, { transcriptHash: await transcriptHash(said) });
  close();
  $("start").focus();
  say("The session has ended. The server keeps its times and its hash, and none of its words.");
});

window.addEventListener("beforeunload", (event) => {
  if (sessionId && transcript().length) event.preventDefault(); // the conversation is nowhere else
});
