"""The text of one output, from its tokens to what the caller may see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llm_serving_engine.backends.text.detokenizer import Detokenizer
from llm_serving_engine.backends.text.stop import StopMatcher
from llm_serving_engine.backends.text.tokenizer import Tokenizer


class TextOutput:
    """Decodes tokens and ends at a stop sequence.

    Attributes:
        consumed: Tokens taken so far, the one that completed a stop sequence
            among them; none of those after it.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        """Begin an output. Raises ValueError where a stop sequence is empty."""
        self.consumed = 0
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence was found: nothing more comes."""
        return self._matcher.matched is not None

    @property
    def matched(self) -> str | None:
        """The stop sequence that was found."""
        return self._matcher.matched

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that `tokens` let go: whole characters, no part of a stop sequence.

        Raises IndexError for an unknown token.
        """
        texts = []
        for token in tokens:
            if self.stopped:
                break
            texts.append(self._matcher.feed(self._detokenizer.feed((token,))))
            self.consumed += 1
        return "".join(texts)

    def finish(self) -> str:
        """The rest, when no more tokens come; empty after a stop sequence."""
        last = self._matcher.feed(self._detokenizer.flush())
        return last + self._matcher.flush()
