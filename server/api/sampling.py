"""The fields of sampling and control that several APIs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, Field

from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.server.api.body import Body
from llm_serving_engine.server.service.request import SamplingFields

SEEDS = 2**64
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


class GenerationBody(Body):
    """What every API that generates takes, by OpenAI's names and by this server's own."""

    model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = Field(
        None, validation_alias=AliasChoices("repetition_penalty", "repeat_penalty")
    )
    logit_bias: dict[str, float] | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    stream: bool | None = None
    priority: Literal["low", "normal", "high", "critical"] | None = None
    cache_salt: str | None = None
    timeout: float | None = Field(None, gt=0, allow_inf_nan=False)

    @property
    def stops(self) -> list[str]:
        """The stop sequences."""
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def priority_value(self) -> int | None:
        """The priority as the service takes it."""
        return None if self.priority is None else Priority[self.priority.upper()].value

    def sampling(self, choice: int = 0) -> SamplingFields:
        """How the tokens of one of several answers are chosen; each has a seed of its own."""
        seed = None if self.seed is None else (self.seed + choice) % SEEDS
        return SamplingFields(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=_not_negative("top_k", self.top_k),
            min_p=self.min_p,
            seed=seed,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=_biases(self.logit_bias or {}),
        )


def _not_negative(field: str, value: int | None) -> int | None:
    # vLLM's clients say -1 for "all tokens", which is 0 here.
    if value is not None and value < -1:
        raise InvalidField(field, f"is {value}; it can be 0 or more, and -1 or 0 for all tokens")
    return None if value is None else max(value, 0)


def _biases(biases: Mapping[str, Any]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in biases.items()}
    except ValueError:
        raise InvalidField("logit_bias", "has a key that is no token id") from None
