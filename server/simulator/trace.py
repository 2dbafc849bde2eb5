"""Reads and writes traces: arrivals and sizes of requests, without their text.

One JSON object a line, in any order:

    {"at": 1.5, "tenant": "a", "priority": "normal", "prompt_tokens": 200,
     "output_tokens": 40, "max_tokens": 256, "prefix": {"g1": 128}, "deadline": 10.0,
     "first_token_seconds": 0.3, "seconds": 1.9}

Texts that begin alike are described by named runs of tokens: {"g1": 128, "g2": 300}
stands for the tokens 0 to 127 of g1, and then 128 to 299 of g2. A conversation goes
on with its answer, so a prefix may reach into the output.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from llm_serving_engine.scheduler.request import Priority

_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
# Tokens of a run that are drawn together.
_BLOCK = 256


class TraceError(ValueError):
    """A trace cannot be read; the message names the line."""


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """One request of a trace.

    Attributes:
        at: When it came, in seconds from the trace's start.
        prompt_tokens: Length of its prompt, at least 1.
        output_tokens: Tokens that it produces if nothing ends it before: at
            most `max_tokens`, below which its stop token follows them.
        max_tokens: Tokens that it may produce, at least 1.
        tenant: On whose behalf.
        priority: The class.
        prefix: Which runs prompt and output begin with, each with the token at
            which it ends, ascending. What follows is like nothing else.
        deadline: When its answer is worthless, in seconds from its arrival;
            None for never.
        first_token_seconds: From its arrival to its first token on the server that
            recorded it; None where there was none, or nothing was recorded.
        seconds: The same to its last token.
    """

    at: float
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    tenant: str = ""
    priority: Priority = Priority.NORMAL
    prefix: Mapping[str, int] = field(default_factory=dict)
    deadline: float | None = None
    first_token_seconds: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError if a value is out of range."""
        _require(self.at >= 0, "at is less than 0")
        _require(self.prompt_tokens >= 1, "prompt_tokens is less than 1")
        _require(self.max_tokens >= 1, "max_tokens is less than 1")
        _require(0 <= self.output_tokens <= self.max_tokens, "output_tokens is not 0 to max_tokens")
        ends, most = (0, *self.prefix.values()), self.prompt_tokens + self.output_tokens
        ascending = all(a < b for a, b in itertools.pairwise(ends)) and ends[-1] <= most
        _require(ascending, f"the ends of prefix are not ascending, from 1 to {most}")
        for name in _OPTIONAL_SECONDS:
            _require((getattr(self, name) or 0) >= 0, f"{name} is less than 0")
        _require(self.deadline != 0, "deadline is 0")

    def line(self) -> str:
        """As a line of a trace, with its end."""
        values = {name: getattr(self, name) for name in FIELDS}
        for name in ("at", *_OPTIONAL_SECONDS):
            values[name] = None if values[name] is None else round(values[name], 6)
        values["prefix"] = dict(self.prefix)
        values["priority"] = self.priority.name.lower()
        return json.dumps(values, ensure_ascii=False) + "\n"


FIELDS = tuple(one.name for one in fields(TraceRecord))
_REQUIRED = FIELDS[:4]
_INTEGERS = ("prompt_tokens", "output_tokens", "max_tokens")
_OPTIONAL_SECONDS = ("deadline", "first_token_seconds", "seconds")


def parse_line(line: str) -> TraceRecord:
    """Parse a line. Raises ValueError with the fault."""
    try:
        values = json.loads(line)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("not JSON") from None
    _require(isinstance(values, dict), "not an object")
    for name in values:
        _require(name in FIELDS, f"unknown field {name!r}")
    for name in _REQUIRED:
        _require(name in values, f"{name} is missing")
    for name in _INTEGERS:
        _require(_is_integer(values[name]), f"{name} is not an integer")
    for name in ("at", *_OPTIONAL_SECONDS):
        if name == "at" or values.get(name) is not None:
            values[name] = _seconds(name, values[name])
    _require(isinstance(values.get("tenant", ""), str), "tenant is not a string")
    prefix = values.get("prefix", {})
    ends = isinstance(prefix, dict) and all(map(_is_integer, prefix.values()))
    _require(ends, "prefix is not an object of integers")
    name = values.get("priority", "normal")
    known = ", ".join(_PRIORITIES)
    _require(isinstance(name, str) and name in _PRIORITIES, f"priority is none of {known}")
    return TraceRecord(**{**values, "priority": _PRIORITIES[name]})


def read_trace(path: Path) -> list[TraceRecord]:
    """The records of a file, in the order of their arrival; empty lines are skipped.

    Raises:
        TraceError: A line makes no sense, or there is none.
        OSError: The file cannot be read.
    """
    records = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                records.append(parse_line(line.decode()))
            except ValueError as error:
                what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error
                raise TraceError(f"{path}, line {number}: {what}") from None
    if not records:
        raise TraceError(f"{path} holds no requests")
    return sorted(records, key=lambda record: record.at)


def write_trace(path: Path, records: Iterable[TraceRecord]) -> None:
    """Write a trace. Raises OSError."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(record.line() for record in records)


def synthetic_tokens(
    record: TraceRecord, number: int, tokens_max: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Make tokens for a record's prompt and for the beginning of its output.

    They are the same at every call. Where records have no run in common, no two of
    them begin alike.

    Args:
        record: What the prompt is like.
        number: Tells this request from the others.
        tokens_max: Where longer prompts are cut off.

    Returns:
        The prompt, and the tokens of the prefix that follow it.
    """
    tokens: list[int] = []
    for name, end in record.prefix.items():
        start, end = len(tokens), min(end, tokens_max)
        blocks = range(start // _BLOCK, -(-end // _BLOCK))
        run = [token for index in blocks for token in _block(name, index)]
        tokens += run[start % _BLOCK : start % _BLOCK + end - start]
    length = min(record.prompt_tokens, tokens_max)
    own = _draw(random.Random(f"request {number}"), max(length - len(tokens), 0))
    return (*tokens[:length], *own), tuple(tokens[length:])


@lru_cache(maxsize=4096)
def _block(name: str, index: int) -> tuple[int, ...]:
    return _draw(random.Random(f"block {index} of {name}"), _BLOCK)


def _draw(dice: random.Random, tokens: int) -> tuple[int, ...]:
    return tuple(array("I", dice.randbytes(array("I").itemsize * tokens)))


def _seconds(name: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    _require(number, f"{name} is not a number")
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large") from None
    _require(math.isfinite(seconds), f"{name} is not finite")
    return seconds


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
