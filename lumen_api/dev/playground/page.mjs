/** What the parts of the page share: its elements, its client, and how it says what goes wrong. */

import { show } from "./exchanges.mjs";
import { LumenClient } from "./lumen-client.mjs";

export const $ = (id) => document.getElementById(id);
export const lumen = new LumenClient({ onExchange: (exchange) => show($("exchanges"), exchange) });

export function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

/** Fires "signed-out" at the window: there nobody may see any more what belongs to a user. */
export const signOut = () => window.dispatchEvent(new Event("signed-out"));

/** Run a step when `element` fires `event`; what goes wrong is said, and never lost in the console. */
export function on(element, event, step) {
  element.addEventListener(event, async (fired) => {
    if (event === "submit") fired.preventDefault();
    try {
      await step(fired);
    } catch (error) {
      if (error.status === 401) signOut();
      say(inWords(error), true);
    }
  });
}

/** An error's own sentence, and when to try again if the server has said so. */
function inWords({ message, retryAfter }) {
  return retryAfter ? `${message} Try again ${inTime(retryAfter)}.` : message;
}

function inTime(seconds) {
  const units = [["hour", 3600], ["minute", 60], ["second", 1]];
  const [unit, size] = units.find(([, size]) => seconds >= 2 * size) ?? units.at(-1);
  return new Intl.RelativeTimeFormat("en").format(Math.ceil(seconds / size), unit);
}
