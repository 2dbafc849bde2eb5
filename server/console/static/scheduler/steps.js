// Step times against their target: a bar for each step, by what was in it.

import { seconds } from "../format.js";
import { palette } from "./colours.js";
import { LABEL, fitted } from "./lanes.js";

const HEIGHT = 92;
const TARGETS_SHOWN = 3;

/** Draw the steps between two times. */
export function drawSteps(canvas, run, begin, end) {
  const context = fitted(canvas, HEIGHT);
  const width = canvas.clientWidth;
  const colours = palette();
  const shown = run.steps.filter(([at]) => at >= begin && at <= end);
  // One very long step must not make all others invisible.
  const limit = run.target ? run.target * TARGETS_SHOWN : Infinity;
  const longest = Math.min(Math.max(...shown.map(([, took]) => took), run.target * 1.25, 0.001), limit);
  const y = (value) => HEIGHT - 4 - (Math.min(value, longest) / longest) * (HEIGHT - 14);
  const scale = (width - LABEL) / (end - begin);
  context.clearRect(0, 0, width, HEIGHT);
  context.font = "11px ui-monospace, monospace";
  context.textBaseline = "middle";
  context.textAlign = "right";
  context.fillStyle = colours.faint;
  context.fillText("step", LABEL - 8, 8);
  for (const [at, took, , prompt] of shown) {
    const right = LABEL + (at - begin) * scale;
    const left = Math.max(right - Math.max(took * scale - 0.5, 1), LABEL);
    context.globalAlpha = prompt ? 0.55 : 1;
    context.fillStyle = run.target && took > run.target ? colours.bad : colours.accent;
    context.fillRect(left, y(took), right - left, HEIGHT - 4 - y(took));
  }
  context.globalAlpha = 1;
  context.fillStyle = colours.line;
  context.fillRect(LABEL, HEIGHT - 4, width - LABEL, 1);
  if (!run.target) return;
  context.strokeStyle = colours.faint;
  context.setLineDash([4, 4]);
  context.beginPath();
  context.moveTo(LABEL, y(run.target));
  context.lineTo(width, y(run.target));
  context.stroke();
  context.setLineDash([]);
  context.fillStyle = colours.faint;
  context.fillText(seconds(run.target), LABEL - 8, Math.max(y(run.target), 22));
}
