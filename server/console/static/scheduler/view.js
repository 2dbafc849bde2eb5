// The scheduler: live, or runs of files beside each other.

import { element } from "../dom.js";
import { hideTip } from "../tip.js";
import { legend, palette } from "./colours.js";
import { Curves } from "./curves.js";
import { explain } from "./explanation.js";
import { duration, listen } from "./feed.js";
import { cacheTable, figures, queueTable, tenantTable } from "./figures.js";
import { History } from "./history.js";
import { Pane } from "./pane.js";
import { readRuns, saveRun } from "./recording.js";
import { Run } from "./run.js";

const WINDOWS = { "10 s": 10, "30 s": 30, "2 min": 120, "5 min": 300 };
// What is drawn is so old, so that it has arrived.
const BEHIND_SECONDS = 0.35;
const FRAME_MS = matchMedia("(prefers-reduced-motion: reduce)").matches ? 500 : 50;
const FILE_ZOOM_STEPS = 1000;

export class SchedulerView {
  constructor(root) {
    this.root = root;
    this.run = new Run("live");
    this.live = new Pane(this.run, (request) => this.#choose(request), true);
    this.history = new History();
    this.curves = new Curves(this.history);
    this.files = [];
    this.by = "class";
    this.window = 30;
    this.paused = null;
    this.selected = null;
    this.ahead = 0;
    this.#build();
  }

  enter() {
    this.source = listen({
      all: (event) => this.#all(event),
      news: (event) => this.#news(event),
      lost: () => { this.notice.textContent = "No connection to the server; trying again."; },
    });
    this.timer = setInterval(() => document.hidden || this.#draw(), FRAME_MS);
  }

  leave() {
    this.source.close();
    clearInterval(this.timer);
    hideTip();
  }

  /** Explain the request that the address names. */
  focus(requestId) {
    if (requestId) this.#explain(requestId);
  }

  // Building

  #build() {
    const part = (name) => (this[name] = element(`div.${name}`));
    this.notice = element("p.notice", { role: "status" });
    this.id = element("input", { placeholder: "Request id", "aria-label": "Request id", autocomplete: "off" });
    const ask = (event) => {
      event.preventDefault();
      if (this.id.value.trim()) this.#explain(this.id.value.trim());
    };
    this.root.replaceChildren(
      part("figures"),
      this.#tools(),
      this.notice,
      element("div.panes", {}, this.live.root, this.curves.root, part("loaded")),
      element("div.below", {},
        element("article.card.request", {}, element("h2", {}, "One request"),
          element("form.row", { on: { submit: ask } }, this.id, element("button", { type: "submit" }, "Explain")),
          part("story")),
        element("article.card", {}, element("h2", {}, "Queue by class"), part("queue")),
        element("article.card", {}, element("h2", {}, "Tenants"), part("tenants")),
        element("article.card", {}, element("h2", {}, "Caches"), part("caches"))));
    this.story.append(element("p.faint", {}, "Choose a request in the lanes, or give its id."));
  }

  #tools() {
    const choice = (label, values, set) => element("label.inline", {}, label, element("select", { on: { change: (event) => set(event.target.value) } },
      ...values.map((value) => element("option", { value, selected: value === "30 s" }, value))));
    this.key = element("span.key");
    this.pause = element("button", { id: "pause", "aria-pressed": "false", on: { click: () => this.#pause() } }, "Pause");
    this.picker = element("input", { type: "file", accept: ".json,application/json", multiple: true, id: "runs", "aria-label": "Files of runs", on: { change: () => this.#load() } });
    this.range = element("input", { type: "range", min: 0, max: FILE_ZOOM_STEPS, value: 0, "aria-label": "Time", hidden: true, on: { input: () => this.#draw() } });
    this.close = element("button", { hidden: true, on: { click: () => this.#show([]) } }, "Back to live");
    return element("div.tools", {},
      choice("Colour", ["class", "tenant"], (value) => { this.by = value; this.#draw(); }),
      choice("Window", Object.keys(WINDOWS), (value) => { this.window = WINDOWS[value]; this.#draw(); }),
      this.pause,
      element("button", { on: { click: () => saveRun(this.run) } }, "Save"),
      element("label.button", { for: "runs", title: "Timelines that were saved here or by simulate --timeline; two or more are compared" }, "Open runs", this.picker),
      this.close, this.range, this.key);
  }

  // Events

  #all(event) {
    this.run.clear();
    this.#news(event);
  }

  #news({ now, state, unavailable, requests, steps }) {
    this.notice.textContent = unavailable ?? "";
    this.ahead = now - performance.now() / 1000;
    this.run.take(requests, steps);
    this.run.forget(now);
    if (!state) return;
    this.state = state;
    this.history.take(now, state);
    this.run.slots = state.slots.length;
    this.run.target = duration(state.last_step?.target);
    this.figures.replaceChildren(...figures(state));
    this.queue.replaceChildren(queueTable(state));
    this.tenants.replaceChildren(tenantTable(state));
    this.caches.replaceChildren(cacheTable(state, this.context));
    if (this.context === undefined) this.#askContext();
  }

  async #askContext() {
    this.context = null;
    const { models } = await (await fetch("/console/data/models")).json();
    const model = models.find((one) => one.name === this.state.model);
    this.context = model?.capabilities?.context_per_sequence ?? null;
  }

  // What the user does

  #pause() {
    this.paused = this.paused === null ? this.#now() : null;
    this.pause.setAttribute("aria-pressed", String(this.paused !== null));
    this.pause.textContent = this.paused === null ? "Pause" : "Go on";
  }

  async #load() {
    try {
      this.#show((await readRuns(this.picker.files)).map((run) => new Pane(run, (request) => this.#tell(request))));
      this.notice.textContent = "";
    } catch (error) {
      this.notice.textContent = error.message;
    }
    this.picker.value = "";
  }

  #show(panes) {
    this.files = panes;
    this.selected = null;
    this.live.root.hidden = this.curves.root.hidden = panes.length > 0;
    this.close.hidden = this.range.hidden = panes.length === 0;
    this.loaded.replaceChildren(...panes.map((pane) => pane.root));
    this.range.value = 0;
    this.#draw();
  }

  #choose(request) {
    this.selected = request.n;
    this.id.value = request.id;
    this.#explain(request.id);
  }

  /** A request of a file: the server does not know it. */
  #tell(request) {
    this.selected = request.n;
    const zero = request.stages[0].at;
    this.story.replaceChildren(element("h3", {}, request.id), element("ol.sentences", {}, ...request.stages.map((one) =>
      element("li", {}, `${(one.at - zero).toFixed(3)} s: ${one.event}, ${one.state}${one.slot === null ? "" : ` in slot ${one.slot}`}${one.takenBy ? `; its slot went to ${one.takenBy}` : ""}`))));
  }

  #explain(requestId) {
    this.id.value = requestId;
    for (const request of this.run.requests.values()) if (request.id === requestId) this.selected = request.n;
    explain(this.story, requestId).catch(() => {
      this.story.replaceChildren(element("p.failure", {}, "The server does not answer."));
    });
  }

  // Drawing

  #now() {
    return performance.now() / 1000 + this.ahead - BEHIND_SECONDS;
  }

  #draw() {
    const [first] = this.files;
    const colours = palette();
    const names = legend(this.by, first?.run ?? this.run, colours);
    const text = names.map(String).join();
    if (text !== this.keyed) {
      this.keyed = text;
      this.key.replaceChildren(...names.map(([name, colour]) => {
        const dot = element("span.dot");
        dot.style.background = colour;
        return element("span", {}, dot, name);
      }));
    }
    if (!first) {
      const end = this.paused ?? this.#now();
      this.live.draw(end - this.window, end, this.by, this.selected);
      this.curves.draw(end - this.window, end, this.context && this.context * this.run.slots);
      return;
    }
    const extents = this.files.map((pane) => pane.run.extent());
    const [from, to] = [Math.min(...extents.map(([a]) => a)), Math.max(...extents.map(([, b]) => b))];
    const shown = Math.min(this.window, to - from);
    const begin = from + (this.range.value / FILE_ZOOM_STEPS) * (to - from - shown);
    for (const pane of this.files) pane.draw(begin, begin + shown, this.by, this.selected);
  }
}
