"""Turns the tokens of one output into the text that the caller gets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llm_serving_engine.backends.text.detokenizer import Detokenizer
from llm_serving_engine.backends.text.reasoning import ReasoningFormat
from llm_serving_engine.backends.text.reasoning_parser import Parts, ReasoningParser
from llm_serving_engine.backends.text.stop import StopMatcher
from llm_serving_engine.backends.text.tokenizer import Tokenizer

# Half of a surrogate pair stands for a control token: no decoded text has one.
_SURROGATE_FIRST = 0xD800


class TextOutput:
    """Decodes tokens, tells reasoning from text, and ends at a stop sequence.

    A stop sequence can name control tokens. It ends the output where the model
    produces these tokens, and where it spells their names as text. Markers of
    reasoning that are control tokens are these tokens alone.

    Attributes:
        consumed: Tokens taken so far, the one that completed a stop sequence
            among them; none of those after it.
        reasoning_tokens: How many of them are reasoning, or end it.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str] = (),
        *,
        min_tokens: int = 0,
        reasoning: ReasoningFormat | None = None,
        inside: bool = False,
    ) -> None:
        """Begin an output.

        Args:
            tokenizer: The model's.
            stops: Stop sequences.
            min_tokens: How many tokens come before stop sequences are looked for.
            reasoning: The markers of reasoning; without them, all is text.
            inside: Whether the prompt has opened the reasoning.

        Raises:
            ValueError: A stop sequence is empty.
        """
        self.consumed = 0
        self._min_tokens = min_tokens
        self._detokenizer = Detokenizer(tokenizer)
        self._symbols: dict[int, str] = {}
        patterns = {self._with_symbols(stop, tokenizer): stop for stop in stops}
        self._stops = patterns | {stop: stop for stop in stops}
        self._matcher = StopMatcher(list(self._stops))
        self.reasoning_tokens = 0
        self._parser: ReasoningParser | None = None
        if reasoning is not None:
            markers = (reasoning.begin, reasoning.end, reasoning.plain)
            marked = (self._with_symbols(marker, tokenizer) for marker in markers)
            self._parser = ReasoningParser(*marked, inside=inside)
        self._no_symbols = {ord(symbol): None for symbol in self._symbols.values()}

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence was found, which ends the output."""
        return self._matcher.matched is not None

    @property
    def matched(self) -> str | None:
        """The stop sequence that was found, as it was asked for."""
        pattern = self._matcher.matched
        return None if pattern is None else self._stops[pattern]

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that `tokens` let go, where the model does not reason. See `feed_parts`."""
        return self.feed_parts(tokens).text

    def feed_parts(self, tokens: Iterable[int]) -> Parts:
        """What `tokens` let go: whole characters, no part of a stop sequence or a marker.

        Raises IndexError for an unknown token.
        """
        reasoning, texts = [], []
        for token in tokens:
            if self.stopped:
                break
            text = self._detokenizer.feed((token,)) + self._symbols.get(token, "")
            if self.consumed >= self._min_tokens:
                text = self._matcher.feed(text)
            if self._parser is not None:
                parts = self._reasoned(text)
                reasoning.append(parts.reasoning)
                text = parts.text
            texts.append(text)
            self.consumed += 1
        if self.stopped and self._parser is not None:
            rest = self._parser.finish()
            reasoning.append(rest.reasoning)
            texts.append(rest.text)
        return self._shown("".join(reasoning), "".join(texts))

    def finish(self) -> str:
        """The text held back, where the model does not reason. See `finish_parts`."""
        return self.finish_parts().text

    def finish_parts(self) -> Parts:
        """What was held back as a possible stop sequence or marker, when no more tokens come.

        A character that the end cuts is left out.
        """
        rest = self._matcher.flush()
        if self._parser is None:
            return self._shown("", rest)
        first, last = self._parser.feed(rest), self._parser.finish()
        return self._shown(first.reasoning + last.reasoning, first.text + last.text)

    def _reasoned(self, text: str) -> Parts:
        assert self._parser is not None
        before = self._parser.reasoning
        parts = self._parser.feed(text)
        self.reasoning_tokens += before or self._parser.reasoning
        return parts

    def _with_symbols(self, stop: str, tokenizer: Tokenizer) -> str:
        """A stop sequence with a symbol for each control token that it names."""
        return "".join(
            piece if isinstance(piece, str) else self._symbol(piece)
            for piece in tokenizer.control_tokens.split(stop)
        )

    def _symbol(self, token: int) -> str:
        return self._symbols.setdefault(token, chr(_SURROGATE_FIRST + len(self._symbols)))

    def _shown(self, reasoning: str, text: str) -> Parts:
        if not self._symbols:
            return Parts(reasoning, text)
        return Parts(reasoning.translate(self._no_symbols), text.translate(self._no_symbols))
