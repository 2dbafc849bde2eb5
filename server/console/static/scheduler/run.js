// What requests did over time: of the server as it runs, of a recording, or of a simulation.

const KEPT_SECONDS = 330;
const ENDED = new Set(["finished", "cancelled", "expired", "failed"]);

/** A stage as the server sends it, by name. */
function stage([state, event, at, slot, takenBy, restoredAt, restored, copied, output]) {
  return { state, event, at, slot, takenBy, restoredAt, restored, copied, output };
}

export class Run {
  constructor(name, slots = 0, target = 0) {
    this.name = name;
    this.slots = slots;
    this.target = target;
    this.requests = new Map();
    this.steps = [];
    // Of each row of the queue, the wait that stands in it last: its owner, and when it ended.
    this.rows = [];
  }

  /** A run of a file. */
  static of(content) {
    const run = new Run(content.name, content.slots, content.target);
    run.take(content.requests, content.steps);
    return run;
  }

  /** Take in requests and steps; a request that is known is replaced. */
  take(requests, steps = []) {
    for (const one of requests) this.#takeRequest(one);
    this.steps.push(...steps);
  }

  #takeRequest(content) {
    const known = this.requests.get(content.n);
    const request = { ...content, stages: content.stages.map(stage) };
    request.stages.forEach((one, index) => {
      one.end = request.stages[index + 1]?.at ?? null;
      one.row = known?.stages[index]?.row;
      if (one.state === "waiting") this.#stand(one, `${request.n} ${index}`);
    });
    this.requests.set(request.n, request);
  }

  /** Give a wait a row of the queue, which it keeps. */
  #stand(one, owner) {
    if (one.row === undefined) {
      const free = this.rows.findIndex((last) => last.end !== null && last.end <= one.at);
      one.row = free < 0 ? this.rows.length : free;
      this.rows[one.row] = { owner };
    }
    if (this.rows[one.row].owner === owner) this.rows[one.row].end = one.end;
  }

  /** Forget what is too long ago to be drawn. */
  forget(now) {
    const before = now - KEPT_SECONDS;
    for (const [number, request] of this.requests) {
      const last = request.stages.at(-1);
      if (ENDED.has(last.state) && last.at < before) this.requests.delete(number);
    }
    const first = this.steps.findIndex(([at]) => at >= before);
    if (first > 0) this.steps.splice(0, first);
  }

  /** Forget everything. */
  clear() {
    this.requests.clear();
    this.steps = [];
    this.rows = [];
  }

  /** The first and the last time of which anything is known. */
  extent() {
    let [from, to] = [Infinity, -Infinity];
    for (const { stages } of this.requests.values()) {
      from = Math.min(from, stages[0].at);
      to = Math.max(to, stages.at(-1).at);
    }
    return from < to ? [from, to] : [0, 1];
  }

  /** The tenants, the first seen first. */
  tenants() {
    return [...new Set([...this.requests.values()].map((request) => request.tenant))];
  }

  /** What was where between two times: {request, kind, slot or row, from, to}. */
  *spans(begin, end) {
    for (const request of this.requests.values()) {
      if (request.stages[0].at > end) continue;
      const last = request.stages.at(-1);
      if (ENDED.has(last.state) && last.at < begin) continue;
      for (const one of request.stages) {
        const to = one.end ?? end;
        if (ENDED.has(one.state) || to < begin || one.at > end) continue;
        if (one.state === "waiting") {
          const kind = one.event === "submit" ? "waiting" : "preempted";
          yield { request, kind, row: one.row, from: one.at, to };
        } else yield* running(request, one, to);
      }
    }
  }
}

/** A stay in a slot, cut where its cache came back and where it was moved. */
function* running(request, one, to) {
  const cuts = request.moves.filter(([at]) => at > one.at && at < to);
  let { at } = one;
  let { slot } = one;
  if (slot === null) return;
  if (one.restoredAt !== null && one.restoredAt <= to) {
    yield { request, kind: "restoring", slot, from: at, to: one.restoredAt };
    at = one.restoredAt;
  }
  for (const [moved, target] of cuts) {
    if (moved > at) yield { request, kind: one.state, slot, from: at, to: moved };
    at = Math.max(at, moved);
    slot = target;
  }
  yield { request, kind: one.state, slot, from: at, to };
}
