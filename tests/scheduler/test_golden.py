"""Interactions with the scheduler as text, for people to read in review.

Each file in golden/ holds commands, and below each what the scheduler made of
it, indented. `pytest tests/scheduler/test_golden.py --rewrite-golden` writes
the second anew.

    slots=2 context=64 ...        a scheduler, with fields of SchedulerConfig; unit=8
                                  for Capabilities.prefill_unit, save=1 for save_restore
    submit a prompt=5 ...         a request, with fields of Request
    cancel a / finish a 3 / lose  a caller's wish; the runner's death
    step                          schedule, and give every due sequence a token
    step begin / step end         the same in two halves
    at 1.5                        the time from here on
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.events import Begun, Moved, SchedulerEvent
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.step import Capabilities, SampledToken, Step, StepResult

FILES = sorted((Path(__file__).parent / "golden").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_interaction(path: Path, pytestconfig: pytest.Config) -> None:
    written = path.read_text()
    actual = "".join(replay(written))
    if pytestconfig.getoption("--rewrite-golden"):
        path.write_text(actual)
    assert actual == written


def replay(text: str) -> Iterator[str]:
    """The lines of a file, with what is indented made anew."""
    script = Script()
    for line in text.splitlines():
        if line.startswith(" "):
            continue
        yield f"{line}\n"
        if line and not line.startswith("#"):
            yield from (f"    {said}\n" for said in script.do(*line.split()))


class Script:
    """A scheduler that is spoken to in words."""

    def __init__(self) -> None:
        self.now = 0.0
        self.tokens = iter(range(100, 1000))
        self.scheduler = Scheduler(Capabilities(1, 64))
        self.step = Step(0)

    def do(self, word: str, *rest: str) -> Iterator[str]:
        if "=" in word:
            self._configure(numbers((word, *rest)))
            return
        try:
            yield from getattr(self, f"do_{word}")(*rest)
        except RequestError as error:
            yield f"{type(error).__name__}: {error}"
        yield from (describe(event) for event in self.scheduler.take_events())

    def _configure(self, values: dict[str, Any]) -> None:
        capabilities = Capabilities(
            values.pop("slots"),
            values.pop("context"),
            prefill_unit=values.pop("unit", 1),
            save_restore=bool(values.pop("save", 0)),
        )
        for switch in {"preemption", "prefix_cache", "compaction"} & values.keys():
            values[switch] = bool(values[switch])
        self.scheduler = Scheduler(capabilities, SchedulerConfig(**values))

    def do_at(self, now: str) -> Iterator[str]:
        self.now = float(now)
        yield from ()

    def do_submit(self, name: str, *fields: str) -> Iterator[str]:
        values: dict[str, Any] = {"prompt": 4, "max_tokens": 4, **numbers(fields)}
        values["prompt"] = tuple(range(values["prompt"]))
        values["priority"] = Priority(values.get("priority", Priority.NORMAL))
        self.scheduler.submit(Request(name, **values), self.now)
        yield from ()

    def do_cancel(self, name: str) -> Iterator[str]:
        self.scheduler.cancel(name, self.now)
        yield from ()

    def do_finish(self, name: str, tokens: str) -> Iterator[str]:
        self.scheduler.finish(name, self.now, int(tokens))
        yield from ()

    def do_lose(self) -> Iterator[str]:
        self.scheduler.runner_lost(self.now)
        yield from ()

    def do_step(self, half: str = "") -> Iterator[str]:
        if half != "end":
            self.step = self.scheduler.schedule(self.now)
            yield from describe_step(self.step)
        if half != "begin" and not self.step.empty:
            due = [c.slot for c in self.step.prefills if c.sample]
            due += [row.slot for row in self.step.decodes]
            sampled = tuple(SampledToken(slot, next(self.tokens)) for slot in due)
            self.scheduler.apply(StepResult(self.step.number, sampled), self.now)


def numbers(fields: tuple[str, ...]) -> dict[str, Any]:
    pairs = (field.split("=") for field in fields)
    return {name: number(value) for name, value in pairs}


def number(value: str) -> Any:
    try:
        return float(value) if "." in value else int(value)
    except ValueError:
        return value


def describe(event: SchedulerEvent) -> str:
    request_id = event.sequence.request.id
    if isinstance(event, Moved):
        return f"{request_id} is {event.transition.state.value}{why(event)}"
    if isinstance(event, Begun):
        return f"{request_id} begins with {event.sequence.cached_prompt_tokens} tokens cached"
    return f"{request_id} has {event.token}"


def why(event: Moved) -> str:
    sequence = event.sequence
    if not event.transition.state.ended:
        return ""
    return f": {sequence.error or (sequence.finish_reason and sequence.finish_reason.value)}"


def describe_step(step: Step) -> Iterator[str]:
    if step.empty:
        yield "nothing to do"
    yield from (str(operation) for operation in step.operations)
    yield from (f"open slot {o.slot} after {list(o.output)}" for o in step.opens)
    for chunk in step.prefills:
        end = chunk.position + len(chunk.tokens)
        yield f"prefill slot {chunk.slot} [{chunk.position}:{end}]{' sample' * chunk.sample}"
    yield from (f"decode slot {r.slot} [{r.position}] {r.token}" for r in step.decodes)
