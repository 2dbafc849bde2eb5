// Curves over time, below the lanes and on their scale: rates, the queue, and the caches.

import { element } from "../dom.js";
import { count, percent } from "../format.js";
import { palette } from "./colours.js";
import { CLASSES } from "./history.js";
import { LABEL, fitted } from "./lanes.js";

const HEIGHT = 64;
// The names of the lines stand above them.
const NAMES = 10;
const TOP = 20;

export class Curves {
  constructor(history) {
    this.history = history;
    const curve = (name) => element(`canvas.curve.${name}`, { role: "img" });
    this.rates = curve("rates");
    this.queue = curve("queue");
    this.caches = curve("caches");
    this.root = element("section.curves", {}, this.rates, this.queue, this.caches);
  }

  /**
   * Draw what was between two times, in seconds.
   * @param {number|null} room Tokens that all slots hold; null where it is not known.
   */
  draw(begin, end, room) {
    const colours = palette();
    const told = (tokens) => (room ? percent(tokens, room) : count(tokens));
    const time = { begin, end, points: this.history.between(begin, end) };
    draw(this.rates, time, count, null, [
      { name: "tokens/s", colour: colours.accent, value: (point) => point.produced },
      { name: "of prompts", colour: colours.faint, value: (point) => point.prompts },
    ]);
    draw(this.queue, time, count, null, CLASSES.map((name) =>
      ({ name, colour: colours[name], value: (point) => point.waiting[name] ?? 0 })));
    draw(this.caches, time, told, room, [
      { name: "in caches", colour: colours.accent, value: (point) => point.cached },
    ]);
  }
}

/** Draw lines, the first on top, on a scale up to `limit`, or else to the highest point. */
function draw(canvas, { begin, end, points }, told, limit, lines) {
  const context = fitted(canvas, HEIGHT);
  const width = canvas.clientWidth;
  const colours = palette();
  const most = limit ?? Math.max(1, ...points.flatMap((point) => lines.map(({ value }) => value(point))));
  const x = (at) => LABEL + ((at - begin) / (end - begin)) * (width - LABEL);
  const y = (value) => HEIGHT - 4 - (value / most) * (HEIGHT - 4 - TOP);
  context.clearRect(0, 0, width, HEIGHT);
  context.font = "11px ui-monospace, monospace";
  context.textBaseline = "middle";
  context.textAlign = "right";
  context.fillStyle = colours.faint;
  context.fillText(told(most), LABEL - 8, TOP);
  context.fillStyle = colours.line;
  context.fillRect(LABEL, HEIGHT - 4, width - LABEL, 1);
  context.save();
  context.beginPath();
  context.rect(LABEL, 0, width - LABEL, HEIGHT);
  context.clip();
  context.lineWidth = 1.5;
  for (const { value, colour } of [...lines].reverse()) {
    context.strokeStyle = colour;
    context.beginPath();
    for (const point of points) context.lineTo(x(point.at), y(value(point)));
    context.stroke();
  }
  context.restore();
  name(canvas, context, lines.map(({ name, colour, value }) => [colour, `${name} ${points.length ? told(value(points.at(-1))) : "–"}`]));
}

/** Say what the lines are, and what they are at now: in the picture, and to those who cannot see it. */
function name(canvas, context, texts) {
  context.textAlign = "left";
  let left = LABEL + 4;
  for (const [colour, text] of texts) {
    context.fillStyle = colour;
    context.fillText(text, left, NAMES);
    left += context.measureText(text).width + 14;
  }
  canvas.setAttribute("aria-label", texts.map(([, text]) => text).join(", "));
}
