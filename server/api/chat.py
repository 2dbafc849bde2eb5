"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llm_serving_engine.server.api.chat_types import ChatBody
from llm_serving_engine.server.api.choices import ChoicesAnswer
from llm_serving_engine.server.api.logprobs import chat_logprobs
from llm_serving_engine.server.events import Answer, Delta

# The names of the field that holds reasoning: clients differ.
REASONING_NAMES = {
    "reasoning_content": ("reasoning_content",),
    "reasoning": ("reasoning",),
    "both": ("reasoning_content", "reasoning"),
}


class ChatAnswer(ChoicesAnswer[ChatBody]):
    """The answers to a conversation."""

    id_prefix = "chatcmpl"
    whole_kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def whole_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        """A message."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.reasoning:
            message.update(self._reasoning(answer.reasoning))
        logprobs = chat_logprobs(answer.logprobs) if self.body.logprobs else None
        return {"message": message, "logprobs": logprobs}

    def first(self, index: int) -> dict[str, Any]:
        """The role."""
        return {"delta": {"role": "assistant", "content": ""}}

    def parts(self, index: int, delta: Delta) -> Iterator[dict[str, Any]]:
        """More reasoning, or more text."""
        logprobs = chat_logprobs(delta.logprobs) if self.body.logprobs else None
        if delta.reasoning:
            # The text's chunk has the positions of both: each is told once.
            own = {} if delta.text else {"logprobs": logprobs}
            yield {"delta": self._reasoning(delta.reasoning), **own}
        if delta.text or (logprobs and not delta.reasoning):
            yield {"delta": {"content": delta.text}, "logprobs": logprobs}

    def last(self) -> dict[str, Any]:
        """Nothing more."""
        return {"delta": {}}

    def _reasoning(self, text: str) -> dict[str, str]:
        return dict.fromkeys(REASONING_NAMES[self.config.reasoning_field], text)
