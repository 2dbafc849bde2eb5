// What the model thought of a token: its probability, and those of others in its place.

import { element } from "../dom.js";
import { probability } from "../format.js";

/** The tokens of a piece of text, with their alternatives. */
export function tokenTable(tokens) {
  const bodies = tokens.map((token) => {
    const others = token.top_logprobs.filter((one) => one.token !== token.token);
    return element("tbody", {}, row(token, "chosen"), ...others.map((one) => row(one, "")));
  });
  return element("table.tokens", {}, ...bodies);
}

function row(token, kind) {
  const share = Math.exp(token.logprob);
  const meter = element("meter", { min: 0, max: 1, value: share });
  return element(`tr${kind && `.${kind}`}`, {},
    element("td", {}, element("code", {}, visible(token.token))),
    element("td.number", {}, probability(share)),
    element("td", {}, meter),
    element("td.number.faint", {}, token.logprob.toFixed(2)));
}

/** A token's text, so that spaces and line ends are seen. */
const visible = (text) => JSON.stringify(text).slice(1, -1).replaceAll(" ", "␣") || "∅";
