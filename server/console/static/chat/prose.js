// The text of an answer: code in fences, code in line, bold; and each token in a span of its own.

import { element } from "../dom.js";

const INLINE = /(`[^`\n]+`)|(\*\*[^*\n]+\*\*)/g;
const FENCE = /^```([^\n`]*)\n([\s\S]*?)(?:^```[ \t]*$\n?|(?![\s\S]))/gm;

/** The text as nodes. `pieces` say where tokens end; without them the text is not divided. */
export function prose(text, pieces = []) {
  const fragment = document.createDocumentFragment();
  const cutter = new Cutter(text, pieces);
  let at = 0;
  for (const found of text.matchAll(FENCE)) {
    inline(fragment, cutter, at, found.index);
    const code = element("code");
    const begin = found.index + found[0].indexOf("\n") + 1;
    cutter.into(code, begin, begin + found[2].length);
    fragment.append(element("pre", { data: { language: found[1].trim() } }, code));
    at = found.index + found[0].length;
  }
  inline(fragment, cutter, at, text.length);
  return fragment;
}

function inline(parent, cutter, begin, end) {
  const text = cutter.text.slice(begin, end);
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    cutter.into(parent, begin + at, begin + found.index);
    const marks = found[1] ? 1 : 2;
    const inner = element(found[1] ? "code" : "strong");
    cutter.into(inner, begin + found.index + marks, begin + found.index + found[0].length - marks);
    parent.append(inner);
    at = found.index + found[0].length;
  }
  cutter.into(parent, begin + at, end);
}

/** Cuts ranges of a text at the ends of its pieces. */
class Cutter {
  constructor(text, pieces) {
    this.text = text;
    this.pieces = pieces;
    this.next = 0;
  }

  into(parent, begin, end) {
    const { pieces } = this;
    while (begin < end) {
      while (this.next < pieces.length && pieces[this.next].end <= begin) this.next += 1;
      const piece = pieces[this.next];
      const stop = piece ? Math.min(piece.end, end) : end;
      const part = this.text.slice(begin, stop);
      parent.append(piece ? element("span.token", { data: { piece: this.next } }, part) : part);
      begin = stop;
    }
  }
}
