"""The body of `POST /v1/responses`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.body import Item
from llm_serving_engine.server.api.chat_types import TOOLS, Part, joined
from llm_serving_engine.server.api.numbers import Integer
from llm_serving_engine.server.api.sampling import CONSTRAINT, UNSERVED, GenerationBody
from llm_serving_engine.server.service.request import Message

# Tools that the service behind the API would have run itself. Clients that send
# them get along without.
HOSTED_TOOLS = frozenset(
    {
        "namespace",
        "web_search",
        "web_search_preview",
        "image_generation",
        "code_interpreter",
        "file_search",
        "computer_use_preview",
        "local_shell",
        "mcp",
    }
)
LOGPROBS = "message.output_text.logprobs"


class InputItem(Item):
    """An item of the conversation. Without a type, it is a message."""

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    summary: list[Part] | None = None


class Reasoning(Item):
    """How the model is to reason."""

    effort: str | None = None
    summary: str | None = None


class TextFormat(Item):
    """The form of the output; only plain text is served."""

    type: str


class TextOptions(Item):
    """How text is given."""

    format: TextFormat | None = None


class ResponseBody(GenerationBody):
    """A conversation to continue, or the next turn of a stored one."""

    input: str | list[InputItem] = ""
    instructions: str | None = None
    max_output_tokens: Integer | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    reasoning: Reasoning | None = None
    text: TextOptions | None = None
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Any = None
    truncation: str | None = None
    top_logprobs: Integer | None = None
    include: list[str] | None = None
    parallel_tool_calls: bool | None = None

    refused: ClassVar[Mapping[str, str]] = {
        **UNSERVED,
        "background": "answers are given while the caller waits",
        "conversation": "conversations are not stored; use previous_response_id",
        "prompt": "prompts are not stored",
    }

    @property
    def top(self) -> int | None:
        """Alternatives to report with each token; None for no log-probabilities."""
        wanted = self.top_logprobs is not None or LOGPROBS in (self.include or ())
        return (self.top_logprobs or 0) if wanted else None

    @property
    def summarized(self) -> bool:
        """Whether reasoning is asked for as a summary."""
        return bool(self.reasoning and self.reasoning.summary)

    def check(self) -> None:
        """Refuse what no field's type can. Raises InvalidField."""
        for index, tool in enumerate(self.tools):
            if str(tool.get("type")) not in HOSTED_TOOLS:
                raise InvalidField(f"tools[{index}]", TOOLS)
        if self.tool_choice not in (None, "auto", "none"):
            raise InvalidField("tool_choice", TOOLS)
        if self.text and self.text.format and self.text.format.type != "text":
            raise InvalidField("text.format", CONSTRAINT)
        if self.truncation not in (None, "disabled"):
            raise InvalidField("truncation", "prompts are never cut; it can be disabled")

    def turns(self) -> list[Message]:
        """The messages of the input. Raises InvalidField."""
        if isinstance(self.input, str):
            # A client's probe has no input, and wants a token all the same.
            return [Message("user", self.input)]
        turns, reasoning = [], ""
        for index, item in enumerate(self.input):
            if item.type == "reasoning":
                reasoning += _reasoning(item)
                continue
            message = _message(index, item)
            if message.role == "assistant":
                message = replace(message, reasoning=reasoning)
            turns.append(message)
            reasoning = ""
        return turns or [Message("user", "")]


def _reasoning(item: InputItem) -> str:
    """Return the reasoning before the assistant's next message, or only its summary."""
    content = item.content if isinstance(item.content, list) else []
    return "".join(part.text or "" for part in (content or item.summary or []))


def _message(index: int, item: InputItem) -> Message:
    field = f"input[{index}]"
    if item.type != "message":
        why = TOOLS if "call" in item.type else "it can be message or reasoning"
        raise InvalidField(f"{field}.type", f"is {item.type!r:.40}; {why}")
    if not item.role:
        raise InvalidField(f"{field}.role", "is missing")
    return Message(item.role, joined(f"{field}.content", item.role, item.content))
