// How full the caches and the queue were over time, and how fast tokens came.

const KEPT_SECONDS = 330;
export const CLASSES = ["critical", "high", "normal", "low"];

/** The states of the scheduler, of each what curves are drawn from. */
export class History {
  constructor() {
    this.points = [];
  }

  /** Take in the state at a time, and forget what is too long ago to be drawn. */
  take(now, state) {
    const waiting = Object.fromEntries((state.queues ?? []).map((queue) =>
      [queue.priority.replace("PRIORITY_", "").toLowerCase(), Number(queue.requests ?? 0)]));
    this.points.push({
      at: now,
      waiting,
      cached: state.slots.reduce((all, slot) => all + Number(slot.tokens ?? 0), 0),
      produced: state.tokens_per_second ?? 0,
      prompts: state.prefill_tokens_per_second ?? 0,
    });
    const first = this.points.findIndex((point) => point.at >= now - KEPT_SECONDS);
    this.points.splice(0, first);
  }

  /** The points between two times, and those next to them. */
  between(begin, end) {
    const first = this.points.findIndex((point) => point.at >= begin);
    const after = this.points.findIndex((point) => point.at > end);
    return first < 0 ? [] : this.points.slice(Math.max(first - 1, 0), after < 0 ? undefined : after + 1);
  }
}
