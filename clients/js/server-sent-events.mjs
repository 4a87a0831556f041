/** Server-sent events, as the HTML standard reads them (9.2.5 and 9.2.6), from pieces that may end anywhere. */

/**
 * The events in `pieces` of a stream. One that no blank line ends is dropped; `id` and `retry`, which are for
 * EventSource's own reconnecting, are passed over.
 *
 * @param {Iterable<Uint8Array> | AsyncIterable<Uint8Array>} pieces UTF-8
 * @returns {AsyncGenerator<{type: string, data: string}, void, undefined>} as soon as each is complete
 */
export async function* serverSentEvents(pieces) {
  const lines = new Lines();
  let type = "";
  let data = [];
  for await (const bytes of pieces) {
    for (const line of lines.endedBy(bytes)) {
      if (line) {
        const [name, value] = field(line);
        if (name === "event") type = value;
        if (name === "data") data.push(value);
      } else {
        if (data.length) yield { type: type || "message", data: data.join("\n") };
        type = "";
        data = [];
      }
    }
  }
}

/** A comment is a field without a name. */
function field(line) {
  const colon = line.indexOf(":");
  if (colon === -1) return [line, ""];
  return [line.slice(0, colon), line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1)];
}

/** Text in lines that an LF, a CR or both have ended. */
class Lines {
  #decoder = new TextDecoder(); // it takes the byte order mark away
  #begun = []; // the last line so far: it is looked at and joined once, however many pieces it comes in
  #afterCr = false;

  *endedBy(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return;
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const [rest, ...begun] = text.split(/\r\n|\r|\n/);
    this.#begun.push(rest);
    for (const next of begun) {
      yield this.#begun.join("");
      this.#begun = [next];
    }
  }
}
