"""The body of `POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import AliasChoices, Field

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.body import Item
from llm_serving_engine.server.api.choice_types import ChoicesBody
from llm_serving_engine.server.api.numbers import Integer
from llm_serving_engine.server.api.sampling import CONSTRAINT, UNSERVED
from llm_serving_engine.server.service.request import Chat, Message

TOOLS = "tool calls are not served by this version"
TEXT_ONLY = "this model takes and gives text only"
TEXT_PARTS = ("text", "input_text", "output_text")


class Part(Item):
    """A part of a message's content."""

    type: str
    text: str | None = None


class ChatMessage(Item):
    """A message of the conversation."""

    role: str
    content: str | list[Part] | None = None
    reasoning_content: str | None = Field(
        None, validation_alias=AliasChoices("reasoning_content", "reasoning")
    )
    tool_calls: list[Any] | None = None
    tool_call_id: str | None = None


class ResponseFormat(Item):
    """The form of the output; only plain text is served."""

    type: str


class ChatBody(ChoicesBody):
    """A conversation to continue."""

    messages: list[ChatMessage]
    max_tokens: Integer | None = None
    max_completion_tokens: Integer | None = None
    logprobs: bool | None = None
    top_logprobs: Integer | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: str | None = None

    refused: ClassVar[Mapping[str, str]] = {
        **UNSERVED,
        "tools": TOOLS,
        "tool_choice": TOOLS,
        "functions": TOOLS,
        "function_call": TOOLS,
        "audio": TEXT_ONLY,
        "web_search_options": "this server searches nothing",
    }

    @property
    def alternatives(self) -> int | None:
        """Alternatives to report with each token; None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def output_tokens(self) -> int | None:
        """The limit of output tokens. Raises InvalidField if its two names disagree."""
        given = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(given) > 1:
            raise InvalidField("max_tokens", "differs from max_completion_tokens; set only one")
        return next(iter(given), None)

    def sources(self) -> list[Chat]:
        """The conversation. Raises InvalidField."""
        return [self.chat(conversation_of(self.messages), self.reasoning_effort)]

    def check(self) -> None:
        """Refuse what no field's type can. Raises InvalidField."""
        if self.response_format is not None and self.response_format.type != "text":
            raise InvalidField("response_format", CONSTRAINT)
        modalities = (self.model_extra or {}).get("modalities")
        if modalities not in (None, ["text"]):
            raise InvalidField("modalities", TEXT_ONLY)
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidField("top_logprobs", "needs logprobs to be true")


def conversation_of(messages: Sequence[ChatMessage]) -> list[Message]:
    """Messages as the service takes them. Raises InvalidField."""
    return [_message(index, message) for index, message in enumerate(messages)]


def _message(index: int, message: ChatMessage) -> Message:
    if message.tool_calls:
        raise InvalidField(f"messages[{index}].tool_calls", TOOLS)
    content = joined(f"messages[{index}].content", message.role, message.content)
    return Message(message.role, content, message.reasoning_content or "")


def joined(field: str, role: str, content: str | Sequence[Part] | None) -> str:
    """Return a message's text, its parts on lines of their own. Raises InvalidField.

    Only the assistant's content can be null: clients send its turns back as they got them.
    """
    if content is None:
        if role != "assistant":
            raise InvalidField(field, "is missing; only the assistant's can be null")
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(text_of(f"{field}[{index}]", part) for index, part in enumerate(content))


def text_of(field: str, part: Part) -> str:
    """The text of a part. Raises InvalidField."""
    if part.type not in TEXT_PARTS:
        raise InvalidField(field, f"is {part.type!r:.40}; {TEXT_ONLY}")
    if part.text is None:
        raise InvalidField(f"{field}.text", "is missing")
    return part.text
