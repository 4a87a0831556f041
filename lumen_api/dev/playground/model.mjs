/** The model's part in a conversation, and what it costs. */

const MODEL = "claude-haiku-5-5"; // one of LLM_MODELS, as long as nobody sets it
const MAX_TOKENS = 1024;

/** The model's answer to `messages`, text by text. It throws as `lumen.streamMessages()` does. */
export async function* answerTo(messages, lumen, signal) {
  const isSystem = ({ role }) => role === "system"; // which is no role there, but a member of its own
  const system = messages.filter(isSystem).map(({ content }) => content).join("\n\n");
  const request = {
    model: MODEL,
    max_tokens: MAX_TOKENS,
    ...(system && { system }),
    messages: messages.filter((message) => !isSystem(message)),
  };
  for await (const { type, delta } of lumen.streamMessages(request, { signal })) {
    if (type === "content_block_delta" && delta.type === "text_delta") yield delta.text;
  }
}

/** What `lumen.usage()` resolves to, as a sentence. */
export function usageInWords({ used, reserved, limit, resets_at: end }) {
  const [spent, aside, all] = [used, reserved, limit].map((tokens) => tokens.toLocaleString("en"));
  const until = new Date(end).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return `${spent} of ${all} tokens are used${reserved ? `, ${aside} are set aside` : ""}. At ${until} a new day begins.`;
}
