"""`POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llm_serving_engine.server.api.choices import ChoicesAnswer
from llm_serving_engine.server.api.completion_types import CompletionBody
from llm_serving_engine.server.api.logprobs import CompletionLogprobs
from llm_serving_engine.server.config import HttpConfig
from llm_serving_engine.server.events import Answer, Delta, PositionLogprobs
from llm_serving_engine.server.service.generation import Generation


class CompletionAnswer(ChoicesAnswer[CompletionBody]):
    """The continuations of texts."""

    id_prefix = "cmpl"
    whole_kind = chunk_kind = "text_completion"

    def __init__(
        self,
        body: CompletionBody,
        generations: Sequence[Generation],
        fingerprint: str,
        config: HttpConfig,
    ) -> None:
        """Answer a request; see ChoicesAnswer."""
        super().__init__(body, generations, fingerprint, config)
        self._logprobs = [CompletionLogprobs(one.detokenizer()) for one in generations]

    def whole_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """A text."""
        text = self._echoed(index) + answer.text
        return {"text": text, "logprobs": self._taken(index, answer.logprobs)}

    def first(self, index: int) -> dict[str, Any] | None:
        """The prompt, if the request asks for an echo."""
        return {"text": self._echoed(index)} if self.body.echo else None

    def parts(self, index: int, delta: Delta) -> Iterator[dict[str, Any]]:
        """More text."""
        logprobs = self._taken(index, delta.logprobs)
        if delta.text or logprobs:
            yield {"text": delta.text, "logprobs": logprobs}

    def last(self) -> dict[str, Any]:
        """No more text."""
        return {"text": ""}

    def _taken(self, index: int, logprobs: Sequence[PositionLogprobs]) -> dict[str, Any] | None:
        wanted = self.body.logprobs is not None
        return self._logprobs[index].take(logprobs) if wanted else None

    def _echoed(self, index: int) -> str:
        return self.generations[index].prompt_text if self.body.echo else ""
