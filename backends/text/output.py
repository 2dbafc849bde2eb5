"""The text of one output, from its tokens to what the caller may see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llm_serving_engine.backends.text.detokenizer import Detokenizer
from llm_serving_engine.backends.text.stop import StopMatcher
from llm_serving_engine.backends.text.tokenizer import Tokenizer

# Half of a surrogate pair stands for a control token: no decoded text has one.
_SURROGATE_FIRST = 0xD800


class TextOutput:
    """Decodes tokens and ends at a stop sequence.

    A stop sequence can name control tokens. It ends the output where the model
    produces these tokens, and where it spells their names as text.

    Attributes:
        consumed: Tokens taken so far, the one that completed a stop sequence
            among them; none of those after it.
    """

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str] = (), *, min_tokens: int = 0
    ) -> None:
        """Begin an output.

        Args:
            tokenizer: The model's.
            stops: Stop sequences.
            min_tokens: How many tokens come before stop sequences are looked for.

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
        self._no_symbols = {ord(symbol): None for symbol in self._symbols.values()}

    @property
    def stopped(self) -> bool:
        """Whether a stop sequence was found: nothing more comes."""
        return self._matcher.matched is not None

    @property
    def matched(self) -> str | None:
        """The stop sequence that was found, as it was asked for."""
        pattern = self._matcher.matched
        return None if pattern is None else self._stops[pattern]

    def feed(self, tokens: Iterable[int]) -> str:
        """The text that `tokens` let go: whole characters, no part of a stop sequence.

        Raises IndexError for an unknown token.
        """
        texts = []
        for token in tokens:
            if self.stopped:
                break
            text = self._detokenizer.feed((token,))
            symbol = self._symbols.get(token, "")
            if self.consumed >= self._min_tokens:
                text = self._matcher.feed(text + symbol)
            texts.append(text)
            self.consumed += 1
        return self._shown("".join(texts))

    def finish(self) -> str:
        """The text held back as a possible stop sequence, when no more tokens come.

        A character that the end cuts is left out.
        """
        return self._shown(self._matcher.flush())

    def _with_symbols(self, stop: str, tokenizer: Tokenizer) -> str:
        """A stop sequence with a symbol for each control token that it names."""
        return "".join(
            piece if isinstance(piece, str) else self._symbol(piece)
            for piece in tokenizer.control_tokens.split(stop)
        )

    def _symbol(self, token: int) -> str:
        return self._symbols.setdefault(token, chr(_SURROGATE_FIRST + len(self._symbols)))

    def _shown(self, text: str) -> str:
        return text.translate(self._no_symbols) if self._symbols else text
