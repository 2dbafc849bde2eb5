"""Sampling and control fields that several APIs share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, Field

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.server.api.extension_fields import ExtensionFields
from llm_serving_engine.server.api.numbers import Integer, Number
from llm_serving_engine.server.service.request import SamplingFields

CONSTRAINT = "constrained output is not served by this version"

CONSTRAINTS: Mapping[str, str] = dict.fromkeys(
    (
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "json_schema",
        "grammar",
        "regex",
        "lark",
        "ebnf",
        "choices",
    ),
    CONSTRAINT,
)
"""Names by which clients ask for constrained output."""

UNSERVED: Mapping[str, str] = {
    **CONSTRAINTS,
    "adapters": "adapters are not served by this version",
    "prompt_logprobs": "log-probabilities of the prompt are not served by this version",
}
"""Fields that would change an answer, and that no API of this version honours."""


class GenerationBody(ExtensionFields):
    """The fields of all generating OpenAI APIs."""

    model: str = ""
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: Integer | None = None
    presence_penalty: Number | None = None
    frequency_penalty: Number | None = None
    repetition_penalty: Number | None = Field(
        None, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty")
    )
    logit_bias: dict[str, Number] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None

    @property
    def stops(self) -> list[str]:
        """The stop sequences."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def sampling(self, choice: int = 0) -> SamplingFields:
        """How the tokens of one of several answers are chosen; each has a seed of its own."""
        return SamplingFields(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=_not_negative("top_k", self.top_k),
            min_p=self.min_p,
            seed=self.seed_of(choice),
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=_biases(self.logit_bias or {}),
        )


# A text, as JSON's keys are. Longer ones are in no vocabulary.
_TOKEN_ID = re.compile("[0-9]{1,20}")


def _not_negative(field: str, value: int | None) -> int | None:
    # vLLM's clients say -1 for "all tokens", which is 0 here.
    if value is not None and value < -1:
        raise InvalidField(field, f"is {value}; it can be 0 or more, and -1 or 0 for all tokens")
    return None if value is None else max(value, 0)


def _biases(biases: Mapping[str, Any]) -> dict[int, float]:
    if not all(map(_TOKEN_ID.fullmatch, biases)):
        raise InvalidField("logit_bias", "has a key that is not a token id")
    return {int(token): bias for token, bias in biases.items()}
