"""A chat template's input: messages and arguments."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llm_serving_engine.backends.text.placeholders import replaced, strings

Message = Mapping[str, Any]
"""One turn: "role", "content" (a text), and what else the template may read."""


class ContentForm(enum.Enum):
    """How a template takes the content of a message."""

    TEXT = "a string"
    PARTS = "a list of parts"


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages and arguments, before the template has seen them.

    Attributes:
        messages: Oldest first.
        arguments: What the template can read beside the messages.
        continues: Whether the model goes on with the last message, instead of
            writing the next one.
        begins: Otherwise, whether the template writes the beginning of the next one.
    """

    messages: Sequence[Message]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False
    begins: bool = True

    def texts(self) -> Iterator[str]:
        """All that the caller wrote, except roles and the names of arguments."""
        for message in self.messages:
            for key, value in message.items():
                if key != "role":
                    yield from strings(value)
        for value in self.arguments.values():
            yield from strings(value)

    def with_texts(self, change: Callable[[str], str]) -> Conversation:
        """The same with each of `texts` changed."""
        return replace(
            self,
            messages=[
                {
                    key: value if key == "role" else replaced(value, change)
                    for key, value in m.items()
                }
                for m in self.messages
            ],
            arguments={key: replaced(value, change) for key, value in self.arguments.items()},
        )

    def with_contents(self, change: Callable[[int, str], str]) -> Conversation:
        """The same with each message's content changed, by its index."""
        return replace(
            self,
            messages=[
                {**message, "content": change(index, message["content"])}
                for index, message in enumerate(self.messages)
            ],
        )

    def variables(self, forms: Mapping[str, ContentForm]) -> dict[str, Any]:
        """The template's variables.

        Args:
            forms: By role, the form of content. Other roles' is a text.
        """
        return {
            "documents": None,
            **self.arguments,
            "tools": None,
            "messages": [_in_form(message, forms) for message in self.messages],
            "add_generation_prompt": self.begins and not self.continues,
        }


def _in_form(message: Message, forms: Mapping[str, ContentForm]) -> dict[str, Any]:
    if forms.get(message["role"]) is not ContentForm.PARTS:
        return dict(message)
    return {**message, "content": [{"type": "text", "text": message["content"]}]}
