// One message on the page, with what can be done with it.

import { element } from "../dom.js";
import { count, digits, plural, seconds } from "../format.js";
import { hideTip, showTip } from "../tip.js";
import { prose } from "./prose.js";
import { tokenTable } from "./tokens.js";

/**
 * The list item of a message.
 * @param {object} message As in the conversation.
 * @param {Array} pieces The answer's tokens, while this page is open.
 * @param {object} actions `retry`, `edit`, `explain`; those that are missing cannot be done.
 */
export function messageItem(message, pieces, actions) {
  const item = element(`li.message.${message.role}`);
  update(item, message, pieces, actions);
  return item;
}

/** Draw a message again. */
export function update(item, message, pieces, actions) {
  const open = item.querySelector("details")?.open ?? false;
  item.classList.toggle("streaming", Boolean(message.streaming));
  const text = element("div.text", {}, prose(message.content, pieces));
  if (pieces?.length) watchTokens(text, pieces);
  item.replaceChildren(...[
    element("div.role", {}, message.role === "user" ? "You" : "Model"),
    message.reasoning && reasoning(message, open),
    text,
    message.error && element("p.failure", { role: "alert" }, message.error),
    footer(message, actions),
  ].filter(Boolean));
}

function reasoning(message, open) {
  const words = message.streaming && !message.content ? "Reasoning …" : "Reasoning";
  return element("details.reasoning", { open }, element("summary", {}, words), element("div.text", {}, message.reasoning));
}

function footer(message, actions) {
  const place = element("div.footer", {}, element("span.figures.number", {}, figures(message)));
  const button = (label, act) => act && place.append(element("button.quiet", { type: "button", on: { click: act } }, label));
  if (message.streaming) return place;
  button("Edit", actions.edit);
  button("Retry", actions.retry);
  if (message.requestId) button("Explain", actions.explain);
  button("Copy", message.content && navigator.clipboard ? () => navigator.clipboard.writeText(message.content) : null);
  return place;
}

function figures({ figures: known, finish, stopped }) {
  const parts = [];
  if (known?.rate) parts.push(`${digits(known.rate)} tokens/s`);
  if (known?.first !== undefined) parts.push(`first token ${seconds(known.first)}`);
  if (known?.tokens) parts.push(plural(known.tokens, "token"));
  if (known?.cached) parts.push(`${count(known.cached)} of ${count(known.prompt)} prompt tokens cached`);
  if (finish === "length") parts.push("cut at the limit of tokens");
  if (stopped) parts.push("stopped");
  return parts.join(" · ");
}

function watchTokens(text, pieces) {
  const show = (event) => {
    const piece = pieces[event.target.dataset?.piece];
    if (piece) showTip(tokenTable(piece.tokens), event.clientX, event.clientY);
    else hideTip();
  };
  text.addEventListener("pointermove", show);
  text.addEventListener("pointerdown", show);
  text.addEventListener("pointerleave", hideTip);
}
