"""The bodies of `POST /v1/messages` and `/v1/messages/count_tokens`, in Anthropic's shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.body import Item
from llm_serving_engine.server.api.chat_types import TOOLS, Part, text_of
from llm_serving_engine.server.api.extension_fields import ExtensionFields
from llm_serving_engine.server.api.numbers import Integer, Number
from llm_serving_engine.server.api.sampling import CONSTRAINT, UNSERVED
from llm_serving_engine.server.api.template_fields import NO_REASONING
from llm_serving_engine.server.service.request import Chat, Message, SamplingFields

# Claude Code puts a line into the system prompt that differs in each request: the
# prompts of one conversation would have nothing in common.
BILLING_HEADER = "x-anthropic-billing-header"

THINKING = ("thinking", "redacted_thinking")


class Block(Part):
    """A part of a message, or of the system prompt."""

    thinking: str | None = None


class Turn(Item):
    """A message of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Thinking(Item):
    """Whether the model is to reason before it answers."""

    type: str


class ConversationBody(ExtensionFields):
    """A conversation, as it is counted, or continued."""

    model: str = ""
    messages: list[Turn]
    system: str | list[Block] | None = None
    thinking: Thinking | None = None

    refused: ClassVar[Mapping[str, str]] = {
        "tools": TOOLS,
        "tool_choice": TOOLS,
        "mcp_servers": TOOLS,
        **UNSERVED,
        "output_config": CONSTRAINT,
        "output_format": CONSTRAINT,
    }

    def conversation(self) -> list[Message]:
        """The messages as the service takes them. Raises InvalidField."""
        system = _text("system", self.system or "")
        turns = [
            Message(
                turn.role,
                _text(f"messages[{index}].content", turn.content),
                _reasoning(turn.content),
            )
            for index, turn in enumerate(self.messages)
        ]
        if not turns:
            raise InvalidField("messages", "is empty")
        return [Message("system", system), *turns] if system else turns

    def chat_to_continue(self) -> Chat:
        """The conversation with its template's arguments. Raises InvalidField.

        In this API, a last message of the assistant is one to go on with.
        """
        off = self.thinking is not None and self.thinking.type == "disabled"
        chat = self.chat(self.conversation(), NO_REASONING if off else None)
        if self.continue_last is None and self.messages[-1].role == "assistant":
            return replace(chat, continue_last=True)
        return chat


class MessagesBody(ConversationBody):
    """A conversation to continue."""

    max_tokens: Integer
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Integer | None = Field(None, ge=0)
    stop_sequences: list[str] = Field(default_factory=list)
    stream: bool | None = None

    @property
    def sampling(self) -> SamplingFields:
        """How tokens are chosen."""
        return SamplingFields(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            seed=self.seed_of(0),
        )


def _reasoning(content: str | list[Block]) -> str:
    blocks = [] if isinstance(content, str) else content
    return "".join(block.thinking or "" for block in blocks if block.type == "thinking")


def _text(field: str, content: str | list[Block]) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for index, block in enumerate(content):
        if block.type in THINKING:
            continue
        text = text_of(f"{field}[{index}]", block)
        if not text.startswith(BILLING_HEADER):
            texts.append(text)
    return "\n".join(texts)
