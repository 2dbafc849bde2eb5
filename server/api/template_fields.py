"""Request fields that decide how the chat template writes a conversation."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices, Field

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.body import Body
from llm_serving_engine.server.service.request import Chat, Message

NO_REASONING = "none"


class TemplateFields(Body):
    """The chat template's fields, by the names that vLLM uses for them, and by ours."""

    template_arguments: dict[str, Any] | None = Field(
        None, validation_alias=AliasChoices("template_arguments", "chat_template_kwargs")
    )
    continue_last: bool | None = Field(
        None, validation_alias=AliasChoices("continue_last", "continue_final_message")
    )
    add_generation_prompt: bool | None = None

    def chat(self, messages: list[Message], effort: str | None = None) -> Chat:
        """Make the chat input, with the template's arguments.

        Args:
            messages: The conversation.
            effort: The reasoning effort, if the request sets one; the request's
                own template arguments take precedence.

        Raises:
            InvalidField: The last message is to go on, and another one to begin.
        """
        if self.continue_last and self.add_generation_prompt:
            raise InvalidField("add_generation_prompt", "must be false where continue_last is true")
        arguments: dict[str, Any] = {}
        if effort is not None:
            arguments["reasoning_effort"] = effort
        if effort == NO_REASONING:
            arguments["enable_thinking"] = False
        arguments.update(self.template_arguments or {})
        begins = self.add_generation_prompt is not False
        return Chat(messages, arguments, bool(self.continue_last), begins)
