"""The body of `POST /v1/completions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.choice_types import ChoicesBody
from llm_serving_engine.server.api.numbers import Integer, Token
from llm_serving_engine.server.api.sampling import CONSTRAINT, UNSERVED
from llm_serving_engine.server.service.request import Text, Tokens

# What OpenAI's API produces where nothing is said.
MAX_TOKENS_DEFAULT = 16

NO_TEMPLATE = "is for conversations; a prompt has no template"


class CompletionBody(ChoicesBody):
    """Texts, or token ids, to continue."""

    prompt: str | list[str] | list[Token] | list[list[Token]]
    max_tokens: Integer | None = MAX_TOKENS_DEFAULT
    best_of: Integer | None = None
    echo: bool | None = None
    logprobs: Integer | None = None
    parse_special: bool = False

    refused: ClassVar[Mapping[str, str]] = {
        **UNSERVED,
        "suffix": "filling in the middle is not served by this version",
        "response_format": CONSTRAINT,
        "template_arguments": NO_TEMPLATE,
        "chat_template_kwargs": NO_TEMPLATE,
        "continue_last": NO_TEMPLATE,
        "continue_final_message": NO_TEMPLATE,
        "add_generation_prompt": NO_TEMPLATE,
    }

    @property
    def alternatives(self) -> int | None:
        """Alternatives to report with each token; None for no log-probabilities."""
        return self.logprobs

    def output_tokens(self) -> int | None:
        """Tokens to produce at most."""
        return self.max_tokens

    def sources(self) -> list[Text | Tokens]:
        """Each prompt."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [Text(prompt, parse_special=self.parse_special)]
        if prompt and isinstance(prompt[0], int):
            return [Tokens([token for token in prompt if isinstance(token, int)])]
        return [
            Text(one, parse_special=self.parse_special) if isinstance(one, str) else Tokens(one)  # type: ignore[arg-type]
            for one in prompt
        ]

    def check(self) -> None:
        """Refuse what no field's type can. Raises InvalidField."""
        if not self.prompt:
            raise InvalidField("prompt", "is empty")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidField("best_of", f"is {self.best_of}; it can be n, or left out")
        if self.echo and self.logprobs is not None:
            raise InvalidField("echo", UNSERVED["prompt_logprobs"])
