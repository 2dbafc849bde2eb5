// An answer while it comes: its text, its tokens, and how fast they were.

export class Answer {
  /** @param {object} message What is stored: content, reasoning, figures. */
  constructor(message) {
    this.message = message;
    // Where each piece of the text ends, with the log-probabilities of its tokens.
    this.pieces = [];
    this.startedAt = performance.now();
    this.firstAt = null;
    this.lastAt = null;
    this.tokens = 0;
  }

  /** Take in a part of the stream. */
  add(part) {
    if (part.finish) {
      this.#finish(part);
      return;
    }
    this.lastAt = performance.now();
    this.firstAt ??= this.lastAt;
    this.tokens += part.tokens.length || 1;
    this.message.reasoning = (this.message.reasoning ?? "") + part.reasoning;
    this.message.content += part.text;
    if (part.tokens.length && !part.reasoning) {
      this.pieces.push({ end: this.message.content.length, tokens: part.tokens });
    }
    this.message.figures = this.#measured();
  }

  /** What this side saw, until the server tells better. */
  #measured() {
    const decoding = (this.lastAt - this.firstAt) / 1000;
    return {
      tokens: this.tokens,
      first: (this.firstAt - this.startedAt) / 1000,
      rate: decoding > 0 && this.tokens > 1 ? (this.tokens - 1) / decoding : null,
    };
  }

  #finish({ finish, usage, timings }) {
    const figures = this.message.figures ?? {};
    this.message.finish = finish;
    if (usage) {
      figures.tokens = usage.completion_tokens;
      figures.prompt = usage.prompt_tokens;
      figures.cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    }
    if (timings) {
      figures.queue = timings.queue_ms / 1000;
      if (timings.time_to_first_token_ms !== null) figures.first = timings.time_to_first_token_ms / 1000;
      if (timings.decode_ms > 0 && figures.tokens > 1) figures.rate = (1000 * (figures.tokens - 1)) / timings.decode_ms;
    }
    this.message.figures = figures;
  }
}
