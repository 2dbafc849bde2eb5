"""A trace: which requests came when and what they were like, never what they said.

One JSON object a line, in any order:

    {"at": 1.5, "tenant": "a", "priority": "normal", "prompt_tokens": 200,
     "output_tokens": 40, "max_tokens": 256, "prefix_group": "g1",
     "prefix_tokens": 128, "deadline": 10.0}
"""

from __future__ import annotations

import json
import math
import random
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from llm_serving_engine.scheduler.request import Priority

_PRIORITIES = {priority.name.lower(): priority for priority in Priority}
# Tokens of a group's run that are drawn together.
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
        prefix_group: Prompts of a group begin alike; None for one that begins
            like no other.
        prefix_tokens: How many of the group's tokens it begins with.
        deadline: When its answer is worthless, in seconds from its arrival;
            None for never.
    """

    at: float
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    tenant: str = ""
    priority: Priority = Priority.NORMAL
    prefix_group: str | None = None
    prefix_tokens: int = 0
    deadline: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where something is out of range."""
        _require(math.isfinite(self.at) and self.at >= 0, "at is less than 0 or not finite")
        _require(self.prompt_tokens >= 1, "prompt_tokens is less than 1")
        _require(self.max_tokens >= 1, "max_tokens is less than 1")
        _require(0 <= self.output_tokens <= self.max_tokens, "output_tokens is not 0 to max_tokens")
        most = 0 if self.prefix_group is None else self.prompt_tokens
        _require(0 <= self.prefix_tokens <= most, f"prefix_tokens is not 0 to {most}")
        if self.deadline is not None:
            positive = math.isfinite(self.deadline) and self.deadline > 0
            _require(positive, "deadline is not above 0 and finite")

    def line(self) -> str:
        """As a line of a trace, with its end."""
        values = {name: getattr(self, name) for name in FIELDS}
        values["at"] = round(self.at, 6)
        values["priority"] = self.priority.name.lower()
        return json.dumps(values, ensure_ascii=False) + "\n"


FIELDS = tuple(field.name for field in fields(TraceRecord))
_REQUIRED = FIELDS[:4]
_INTEGERS = ("prompt_tokens", "output_tokens", "max_tokens", "prefix_tokens")


def parse_line(line: str) -> TraceRecord:
    """The record of a line. Raises ValueError saying what is wrong with it."""
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
        number = values.get(name, 0)
        _require(isinstance(number, int) and not isinstance(number, bool), f"{name} is no integer")
    values["at"] = _seconds("at", values["at"])
    if values.get("deadline") is not None:
        values["deadline"] = _seconds("deadline", values["deadline"])
    _require(isinstance(values.get("tenant", ""), str), "tenant is no string")
    group = values.get("prefix_group")
    _require(group is None or isinstance(group, str), "prefix_group is neither string nor null")
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


def synthetic_prompt(record: TraceRecord, number: int, tokens_max: int) -> tuple[int, ...]:
    """Tokens that stand for a record's prompt, the same at every call.

    Prompts of a group begin with the same tokens; after these, and without a
    group, no two begin alike.

    Args:
        record: What the prompt is like.
        number: Tells this request from the others.
        tokens_max: Where longer prompts are cut off.
    """
    length = min(record.prompt_tokens, tokens_max)
    shared = min(record.prefix_tokens, length)
    blocks = (_block(record.prefix_group, i) for i in range(math.ceil(shared / _BLOCK)))
    common = tuple(token for block in blocks for token in block)[:shared]
    return common + _draw(random.Random(f"request {number}"), length - shared)


@lru_cache(maxsize=4096)
def _block(group: str | None, index: int) -> tuple[int, ...]:
    return _draw(random.Random(f"block {index} of {group}"), _BLOCK)


def _draw(dice: random.Random, tokens: int) -> tuple[int, ...]:
    return tuple(array("I", dice.randbytes(array("I").itemsize * tokens)))


def _seconds(name: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    _require(number, f"{name} is no number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} is too large") from None


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
