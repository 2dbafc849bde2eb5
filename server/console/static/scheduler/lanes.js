// The lanes: a row for each slot, below them the queue; time goes to the right.

import { colouring, palette } from "./colours.js";

export const LABEL = 62;
const AXIS = 22;
const GAP = 2;
const ROW = { slot: [14, 30], queue: [7, 10] };
const QUEUE_ROWS_MAX = 14;
const KINDS = { decode: 1, prefill: 0.55, restoring: 0.3 };

export class Lanes {
  /** Draw a run on a canvas; `chosen` is called with the request that is pointed at and clicked. */
  constructor(canvas, run, { pointed, chosen }) {
    this.canvas = canvas;
    this.run = run;
    this.by = "class";
    this.selected = null;
    this.hits = [];
    canvas.addEventListener("pointermove", (event) => pointed(this.#at(event), event));
    canvas.addEventListener("pointerleave", (event) => pointed(null, event));
    canvas.addEventListener("click", (event) => {
      const hit = this.#at(event);
      if (hit) chosen(hit.request);
    });
  }

  #at(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - left, event.clientY - top];
    return this.hits.findLast((hit) => x >= hit.x && x <= hit.x + Math.max(hit.width, 3) && y >= hit.y && y <= hit.y + hit.height);
  }

  /** Draw what was between two times. */
  draw(begin, end) {
    const { run, canvas } = this;
    const queueRows = Math.min(Math.max(run.rows.length, 4), QUEUE_ROWS_MAX);
    const slotHeight = Math.max(ROW.slot[0], Math.min(ROW.slot[1], Math.floor(420 / Math.max(run.slots, 1))));
    const queueTop = run.slots * slotHeight + 14;
    const height = queueTop + queueRows * ROW.queue[1] + AXIS;
    const context = fitted(canvas, height);
    const width = canvas.clientWidth;
    const colours = palette();
    const x = (at) => LABEL + ((at - begin) / (end - begin)) * (width - LABEL);
    this.#grid({ context, colours, x, begin, end, width, height, slotHeight, queueTop });
    const colour = colouring(this.by, run, colours);
    this.hits = [];
    context.save();
    context.beginPath();
    context.rect(LABEL, 0, width - LABEL, height - AXIS);
    context.clip();
    let hidden = 0;
    for (const span of run.spans(begin, end)) {
      const [left, right] = [Math.max(x(span.from), LABEL - 4), Math.min(x(span.to), width + 4)];
      const queued = span.slot === undefined;
      if (queued && span.row >= queueRows) {
        hidden += span.to >= end;
        continue;
      }
      const box = queued
        ? { y: queueTop + span.row * ROW.queue[1], height: ROW.queue[1] - GAP }
        : { y: span.slot * slotHeight, height: slotHeight - GAP };
      Object.assign(box, { x: left, width: Math.max(right - left, 1), request: span.request, kind: span.kind, lasted: span.to - span.from });
      paint(context, box, colour(span.request), colours, span.request.n === this.selected);
      this.hits.push(box);
    }
    context.restore();
    if (hidden) label(context, colours.faint, `+${hidden}`, LABEL - 8, queueTop + queueRows * ROW.queue[1]);
  }

  #grid({ context, colours, x, begin, end, width, height, slotHeight, queueTop }) {
    context.clearRect(0, 0, width, height);
    context.font = "11px ui-monospace, monospace";
    context.textBaseline = "middle";
    for (let slot = 0; slot < this.run.slots; slot += 1) {
      context.fillStyle = colours.panel;
      context.fillRect(LABEL, slot * slotHeight, width - LABEL, slotHeight - GAP);
      label(context, colours.faint, slot === 0 ? "slot 0" : String(slot), LABEL - 8, slot * slotHeight + (slotHeight - GAP) / 2);
    }
    label(context, colours.faint, "queue", LABEL - 8, queueTop + 5);
    for (const [at, text] of this.live ? ticksBefore(begin, end) : ticksFrom(begin, end)) {
      context.fillStyle = colours.line;
      context.fillRect(Math.round(x(at)), 0, 1, height - AXIS + 4);
      context.fillStyle = colours.faint;
      context.textAlign = at === end ? "right" : "center";
      if (x(at) > LABEL + 16) context.fillText(text, x(at), height - AXIS / 2 + 2);
    }
  }
}

function paint(context, box, colour, colours, selected) {
  const { x, y, width, height, kind } = box;
  if (kind in KINDS) {
    context.globalAlpha = KINDS[kind];
    context.fillStyle = colour;
    context.fillRect(x, y, width, height);
    context.globalAlpha = 1;
    if (kind === "restoring") hatch(context, box, colour);
    context.fillStyle = colours.paper;
    context.fillRect(x, y, 1, height);
  } else {
    context.globalAlpha = kind === "preempted" ? 0.25 : 0.6;
    context.fillStyle = colour;
    context.fillRect(x, y, width, height);
    context.globalAlpha = 1;
    if (kind === "preempted") hatch(context, box, colour);
  }
  if (!selected) return;
  context.strokeStyle = colours.ink;
  context.lineWidth = 2;
  context.strokeRect(x + 1, y + 1, Math.max(width - 2, 1), height - 2);
}

function hatch(context, { x, y, width, height }, colour) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.strokeStyle = colour;
  context.lineWidth = 1.5;
  context.beginPath();
  for (let at = Math.floor(x / 6) * 6 - height; at < x + width; at += 6) {
    context.moveTo(at, y + height);
    context.lineTo(at + height, y);
  }
  context.stroke();
  context.restore();
}

function label(context, colour, text, x, y) {
  context.fillStyle = colour;
  context.textAlign = "right";
  context.fillText(text, x, y);
}

/** The context of a canvas that is as sharp as the screen. */
export function fitted(canvas, height) {
  const scale = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(canvas.clientWidth * scale), Math.round(height * scale)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  return context;
}

/** Lines of the grid at round distances from the end: [time, label]. */
function ticksBefore(begin, end) {
  const step = tick(end - begin);
  const number = Math.floor((end - begin) / step + 1e-6);
  return Array.from({ length: number + 1 }, (_, index) => [end - index * step, index ? `−${round(index * step)} s` : "now"]);
}

/** Lines of the grid at round times. */
function ticksFrom(begin, end) {
  const step = tick(end - begin);
  const first = Math.ceil(begin / step - 1e-6);
  const number = Math.floor((end - first * step) / step + 1e-6);
  return Array.from({ length: Math.max(number + 1, 0) }, (_, index) => [(first + index) * step, `${round((first + index) * step)} s`]);
}

/** Round seconds between the lines of the grid. */
function tick(seconds) {
  const wanted = seconds / 8;
  const power = 10 ** Math.floor(Math.log10(wanted));
  return power * [1, 2, 5, 10].find((factor) => power * factor >= wanted);
}

const round = (value) => value.toLocaleString("en", { maximumFractionDigits: 2 });
