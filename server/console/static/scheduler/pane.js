// One run on the page: its name, its lanes, and its steps, with a tooltip for what is pointed at.

import { element, pairs } from "../dom.js";
import { count, seconds } from "../format.js";
import { hideTip, showTip } from "../tip.js";
import { Lanes } from "./lanes.js";
import { drawSteps } from "./steps.js";

export class Pane {
  constructor(run, chosen, live = false) {
    const canvas = element("canvas.lanes", { role: "img", "aria-label": "Slots and queue over time" });
    this.steps = element("canvas.steps", { role: "img", "aria-label": "Step times against their target" });
    this.run = run;
    this.lanes = new Lanes(canvas, run, { chosen, pointed: (hit, event) => this.#point(hit, event) });
    this.lanes.live = live;
    this.root = element("section.pane", {}, !live && element("h2", {}, run.name), canvas, this.steps);
  }

  draw(begin, end, by, selected) {
    this.lanes.by = by;
    this.lanes.selected = selected;
    this.lanes.draw(begin, end);
    drawSteps(this.steps, this.run, begin, end);
  }

  #point(hit, event) {
    if (!hit) {
      hideTip();
      return;
    }
    const { request, kind, lasted } = hit;
    const last = request.stages.at(-1);
    showTip(pairs([
      ["Request", request.id],
      ["Here", `${kind}, ${seconds(lasted)}`],
      ["Class", request.class],
      request.tenant && ["Tenant", request.tenant],
      ["Prompt", `${count(request.prompt)} tokens${request.cached ? `, ${count(request.cached)} cached` : ""}`],
      ["Produced", `${count(request.output)} of ${count(request.max)}`],
      ["Now", `${last.state}${last.takenBy ? `, slot taken by ${last.takenBy}` : ""}`],
    ]), event.clientX, event.clientY);
  }
}
