// Runs in files: saved from this page, or written by `simulate --timeline`.

import { element } from "../dom.js";
import { Run } from "./run.js";

export const FORMAT = "llm-serving-engine timeline 2";

/** Offer what a run holds as a file. */
export function saveRun(run) {
  const zero = run.extent()[0];
  const requests = [...run.requests.values()].map((request) => ({
    ...request,
    stages: request.stages.map((one) => [one.state, one.event, one.at - zero, one.slot, one.takenBy,
      one.restoredAt === null ? null : one.restoredAt - zero, one.restored, one.copied, one.output]),
    moves: request.moves.map(([at, slot]) => [at - zero, slot]),
    deferrals: request.deferrals.map(([at, donor]) => [at - zero, donor]),
  }));
  const steps = run.steps.map(([at, ...rest]) => [at - zero, ...rest]);
  const name = `${run.name} ${new Date().toISOString().slice(0, 19).replace("T", " ")}`;
  const content = { format: FORMAT, runs: [{ name, slots: run.slots, target: run.target, requests, steps }] };
  const link = element("a", { href: URL.createObjectURL(new Blob([JSON.stringify(content)], { type: "application/json" })), download: "timeline.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The runs of files. Throws an Error that says what is wrong. */
export async function readRuns(files) {
  const runs = [];
  for (const file of files) {
    let content;
    try {
      content = JSON.parse(await file.text());
    } catch {
      throw new Error(`${file.name} is not JSON`);
    }
    if (content?.format !== FORMAT || !Array.isArray(content.runs)) {
      throw new Error(`${file.name} is no timeline; \`simulate --timeline FILE\` writes one`);
    }
    try {
      runs.push(...content.runs.map((one) => Run.of(one)));
    } catch {
      throw new Error(`${file.name} is damaged`);
    }
  }
  return runs;
}
