"""The bodies of `POST /tokenize` and `/detokenize`: vLLM's fields, and llama-server's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import AliasChoices, Field

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.body import Body
from llm_serving_engine.server.api.chat_types import TOOLS, ChatMessage, conversation_of
from llm_serving_engine.server.api.numbers import Token
from llm_serving_engine.server.api.template_fields import TemplateFields
from llm_serving_engine.server.service.request import DetokenizeRequest, Text, TokenizeRequest


class TokenizeBody(TemplateFields):
    """A text or a conversation to tokenize.

    `prompt` and `messages` are vLLM's names, `content` is llama-server's. Whether a
    text begins with the beginning-of-sequence token is each server's own default.
    """

    model: str = ""
    prompt: str | None = None
    content: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool | None = Field(
        None, validation_alias=AliasChoices("add_special_tokens", "add_special")
    )
    parse_special: bool = False
    return_token_strs: bool | None = None
    with_pieces: bool = False

    refused: ClassVar[Mapping[str, str]] = {"tools": TOOLS}

    def request(self) -> TokenizeRequest:
        """The request for the service. Raises InvalidField."""
        given = [one for one in (self.prompt, self.content, self.messages) if one is not None]
        if len(given) != 1:
            raise InvalidField("prompt", "must be given, or content, or messages: one of them")
        ids_only = not (self.return_token_strs or self.with_pieces)
        if self.messages is not None:
            chat = self.chat(conversation_of(self.messages))
            return TokenizeRequest(chat, self.model, ids_only)
        field = "content" if self.prompt is None else "prompt"
        text = Text(self.prompt or self.content or "", field, self.parse_special)
        add_special = self.add_special_tokens
        if add_special is None:
            add_special = self.prompt is not None
        return TokenizeRequest(text, self.model, ids_only, add_special)


class DetokenizeBody(Body):
    """Tokens to turn into text."""

    model: str = ""
    tokens: list[Token]
    show_special: bool = True

    def request(self) -> DetokenizeRequest:
        """The request for the service."""
        return DetokenizeRequest(self.tokens, self.model, self.show_special)
