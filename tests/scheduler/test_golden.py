"""Interactions with the scheduler as text, for people to read in review.

Each file in golden/ holds commands, and below each what the scheduler made of
it, indented. `pytest tests/scheduler/test_golden.py --rewrite-golden` writes
the second anew.

    slots=2 context=64 ...        a scheduler, with fields of Capabilities and SchedulerConfig
    submit a prompt=5 ...         a request, with fields of Request; like=b: its prompt begins
                                  like that of b
    cancel a / finish a 3 / lose  a caller's wish; the runner's death
    step                          send a step, and let the runner do it
    send / do                     the two apart: the runner has two steps at most
    do fail                       its operations on caches fail
    recall                        call the queued step back, if a newcomer should go first
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
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.step import (
    Capabilities,
    Copy,
    Open,
    Operation,
    Output,
    Restore,
    RunResult,
    Save,
    Step,
    StepResult,
)

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
        self.names: dict[str, int] = {}
        self.recalled = 0

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
        fields = {name: values.pop(name) for name in Capabilities._fields if name in values}
        for switch in {"snapshots", "joins", "copy"} & fields.keys():
            fields[switch] = bool(fields[switch])
        if "prefix_cache" in values:
            values["prefix_cache"] = bool(values["prefix_cache"])
        self.scheduler = Scheduler(Capabilities(**fields), SchedulerConfig(**values))

    def do_at(self, now: str) -> Iterator[str]:
        self.now = float(now)
        yield from ()

    def do_submit(self, name: str, *fields: str) -> Iterator[str]:
        values: dict[str, Any] = {"prompt": 4, "max_tokens": 4, **numbers(fields)}
        start = 1000 * sum(values.pop("like", name).encode())
        values["prompt"] = tuple(range(start, start + values["prompt"]))
        values["priority"] = Priority(values.get("priority", Priority.NORMAL))
        sequence = self.scheduler.submit(Request(name, **values), self.now)
        self.names[name] = sequence.key
        yield from ()

    def do_cancel(self, name: str) -> Iterator[str]:
        self.scheduler.cancel(self.names[name], self.now)
        yield from ()

    def do_finish(self, name: str, tokens: str) -> Iterator[str]:
        self.scheduler.finish(self.names[name], self.now, int(tokens))
        yield from ()

    def do_lose(self) -> Iterator[str]:
        self.scheduler.runner_lost(self.now)
        yield from ()

    def do_step(self) -> Iterator[str]:
        yield from self.do_send()
        if self.scheduler.cache.flights:
            yield from self.do_do()

    def do_send(self) -> Iterator[str]:
        step = self.scheduler.schedule(self.now)
        yield from self._describe(step)

    def do_recall(self) -> Iterator[str]:
        number = self.scheduler.recall(self.now)
        self.recalled = number or 0
        yield f"step {number} is called back" if number else "no step is called back"

    def do_do(self, how: str = "") -> Iterator[str]:
        step = self.scheduler.cache.flights[0]
        if step.number == self.recalled:
            yield f"step {step.number} was not begun"
            self.scheduler.apply(StepResult(step.number, recalled=True), self.now)
            return
        failed = [
            index
            for index, operation in enumerate(step.operations)
            if how == "fail" and isinstance(operation, Copy | Restore | Save)
        ]
        lost = [run.key for run in step.runs if run.start and failed and step.operations]
        runs = (
            RunResult(run.key, 0)
            if run.key in lost
            else RunResult(
                run.key,
                len(run.tokens),
                (next(self.tokens),) if run.output & Output.SAMPLE else (),
            )
            for run in step.runs
        )
        result = StepResult(step.number, runs=tuple(runs), failed=tuple(failed))
        self.scheduler.apply(result, self.now)

    def _describe(self, step: Step | None) -> Iterator[str]:
        if step is None:
            yield "nothing to send"
            return
        names = {key: name for name, key in self.names.items()}
        yield f"step {step.number}"
        yield from (describe_operation(operation, names) for operation in step.operations)
        for run in step.runs:
            span = f"[{run.start}:{run.end}]" if len(run.tokens) > 1 else f"[{run.start}]"
            known = "" if run.tokens[0] >= 0 else " follows"
            draws = " draws" if run.output else ""
            yield f"run {names[run.key]} in slot {run.slot} {span}{known}{draws}"


def describe_operation(operation: Operation, names: dict[int, str]) -> str:
    kind = type(operation).__name__.lower()
    if isinstance(operation, Open):
        return f"open {names[operation.key]} after {list(operation.output)}"
    fields = operation._asdict()
    if "key" in fields:
        return f"{kind} {names[fields['key']]}"
    return f"{kind} " + " ".join(f"{name}={value}" for name, value in fields.items())


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
    """The reason, where it does not go without saying."""
    sequence, event_name = event.sequence, event.transition.event.value
    if event.transition.state is State.WAITING and event_name != "submit":
        return f" again: {event_name}"
    if not event.transition.state.ended:
        return ""
    return f": {sequence.error or (sequence.finish_reason and sequence.finish_reason.value)}"
