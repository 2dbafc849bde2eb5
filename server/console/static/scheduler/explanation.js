// What became of one request, in the server's sentences: the same that `explain` prints.

import { element } from "../dom.js";

/** Ask the server, and show the answer in a place. */
export async function explain(place, requestId) {
  const answer = await fetch(`/console/data/requests/${encodeURIComponent(requestId)}`, { cache: "no-store" });
  const content = await answer.json();
  if (!answer.ok) {
    place.replaceChildren(element("p.failure", {}, content.error.message));
    return;
  }
  place.replaceChildren(...content.explanations.map(explanation));
}

function explanation(one) {
  return element("article", {},
    element("h3", {}, one.request_id, element("span.faint", {}, ` · ${new Date(one.arrived).toLocaleTimeString()}`)),
    element("ol.sentences", {}, ...one.sentences.map((sentence) => element("li", {}, sentence))));
}
