"""Parses a request's sampling fields."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping

from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.server.service.fields import check
from llm_serving_engine.server.service.request import SamplingFields

LOGIT_BIAS_ENTRIES_MAX = 1024


def parse_sampling(fields: SamplingFields, defaults: Sampling, vocabulary_size: int) -> Sampling:
    """Parse a request's sampling. Raises InvalidField.

    Args:
        fields: What the request says.
        defaults: What holds where it says nothing.
        vocabulary_size: Token ids are below it.
    """

    def number(field: str, low: float, high: float, open_low: bool = False) -> float:
        value: float | None = getattr(fields, field)
        if value is None:
            default: float = getattr(defaults, field)
            return default
        inside = (low < value if open_low else low <= value) and value <= high
        check(
            inside,
            f"sampling.{field}",
            f"is {value:g}; it can be {'above' if open_low else 'from'} {low:g} to {high:g}",
        )
        return value

    return Sampling(
        temperature=number("temperature", 0, 100),
        top_p=number("top_p", 0, 1, open_low=True),
        min_p=number("min_p", 0, 1),
        top_k=defaults.top_k if fields.top_k is None else fields.top_k,
        seed=secrets.randbits(64) if fields.seed is None else fields.seed,
        repetition_penalty=number("repetition_penalty", 0, 10, open_low=True),
        presence_penalty=number("presence_penalty", -2, 2),
        frequency_penalty=number("frequency_penalty", -2, 2),
        logit_bias=_logit_bias(fields.logit_bias, vocabulary_size),
    )


def _logit_bias(biases: Mapping[int, float], vocabulary_size: int) -> dict[int, float]:
    field = "sampling.logit_bias"
    check(
        len(biases) <= LOGIT_BIAS_ENTRIES_MAX,
        field,
        f"has {len(biases)} entries; the limit is {LOGIT_BIAS_ENTRIES_MAX}",
    )
    for token, bias in biases.items():
        check(
            0 <= token < vocabulary_size,
            field,
            f"names token {token}; the vocabulary ends at {vocabulary_size - 1}",
        )
        check(
            math.isfinite(bias) and -100 <= bias <= 100,
            field,
            f"is {bias:g} for token {token}; it can be -100 to 100",
        )
    return dict(biases)
