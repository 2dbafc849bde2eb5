// A conversation: what was said, and how the model is asked. Plain data, so that it can be stored.

export const SETTINGS = {
  model: "",
  system: "",
  max_tokens: null,
  temperature: null,
  top_p: null,
  top_k: null,
  min_p: null,
  repetition_penalty: null,
  seed: null,
  priority: "normal",
  tenant: "",
  logprobs: true,
};
const TITLE_CHARACTERS = 48;

/** A new one, with the settings of another where there is one. */
export function newConversation(like) {
  return {
    id: randomId(),
    title: "",
    changed: Date.now(),
    messages: [],
    settings: { ...SETTINGS, ...like?.settings },
  };
}

/** What the list calls it. */
export const titleOf = (conversation) => conversation.title || "New conversation";

/** Add what the user says; the first words make the title. */
export function say(conversation, content) {
  conversation.messages.push({ role: "user", content });
  conversation.title ||= content.trim().split("\n")[0].slice(0, TITLE_CHARACTERS);
  conversation.changed = Date.now();
}

/** Forget a message and all after it. */
export function cut(conversation, index) {
  conversation.messages.length = index;
  conversation.changed = Date.now();
}

/** An id that no other has. */
export function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The body of the request for the next answer. */
export function requestBody(conversation) {
  const { system, logprobs, tenant, model, ...sampling } = conversation.settings;
  const said = conversation.messages.filter((message) => !message.error || message.content);
  const messages = said.map(({ role, content }) => ({ role, content }));
  if (system.trim()) messages.unshift({ role: "system", content: system });
  const given = Object.entries(sampling).filter(([, value]) => value !== null && value !== "");
  const body = { messages, stream: true, ...Object.fromEntries(given) };
  if (model) body.model = model;
  if (logprobs) Object.assign(body, { logprobs: true, top_logprobs: 5 });
  return body;
}
