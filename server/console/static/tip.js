// The one tooltip of the page.

import { byId } from "./dom.js";

const GAP = 14;

/** Show something near a point of the window. */
export function showTip(content, x, y) {
  const tip = byId("tip");
  tip.replaceChildren(content);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(x + GAP, window.innerWidth - width - 8);
  const below = y + GAP + height < window.innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, below ? y + GAP : y - GAP - height)}px`;
}

/** Show nothing. */
export function hideTip() {
  byId("tip").hidden = true;
}
