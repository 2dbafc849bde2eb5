"""Carries out a phase of a plan against a target."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from llm_serving_engine.clients.bench.plan import Gate, Phase, PlannedRequest
from llm_serving_engine.clients.bench.record import SHORT_ANSWER, Arrival, PhaseRecord, Record
from llm_serving_engine.clients.bench.target import Target, TargetError


async def drive(
    phase: Phase, target: Target, on_end: Callable[[], None] = lambda: None
) -> PhaseRecord:
    """Run the phase's lanes side by side; `on_end` is called as each request ends."""
    cpu = time.process_time()
    driver = _Driver(phase, target, on_end)
    await asyncio.gather(*(driver.lane(runs) for runs in driver.lanes))
    return PhaseRecord(
        name=phase.name,
        requests=tuple(run.record() for runs in driver.lanes for run in runs),
        cpu_seconds=time.process_time() - cpu,
    )


@dataclass(slots=True, eq=False)
class _Run:
    """A planned request and what has come of it so far."""

    planned: PlannedRequest
    sent: float = 0.0
    ended: float | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    tokens: int = 0
    error: str = ""

    def record(self) -> Record:
        ended = self.sent if self.ended is None else self.ended
        return Record(self.planned.label, self.sent, ended, tuple(self.arrivals), self.error)


class _Driver:
    def __init__(self, phase: Phase, target: Target, on_end: Callable[[], None]) -> None:
        self.lanes = [[_Run(planned) for planned in lane] for lane in phase.lanes]
        self._labelled: dict[str, list[_Run]] = {}
        for runs in self.lanes:
            for run in runs:
                self._labelled.setdefault(run.planned.label, []).append(run)
        self._waiting: list[tuple[Gate, asyncio.Event]] = []
        self._target = target
        self._on_end = on_end
        self._start = time.perf_counter()

    async def lane(self, runs: list[_Run]) -> None:
        for run in runs:
            await self._wait(run.planned)
            run.sent = time.perf_counter()
            try:
                await self._stream(run)
            except TargetError as error:
                run.error = error.code
            run.ended = time.perf_counter()
            self._open_gates()
            self._on_end()

    async def _wait(self, planned: PlannedRequest) -> None:
        delay = self._start + planned.at - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        if planned.after and not self._is_open(planned.after):
            opened = asyncio.Event()
            self._waiting.append((planned.after, opened))
            await opened.wait()

    async def _stream(self, run: _Run) -> None:
        planned = run.planned
        async with aclosing(self._target.stream(planned.prompt, planned.max_tokens)) as stream:
            async for tokens in stream:
                run.arrivals.append(Arrival(time.perf_counter(), tokens))
                run.tokens += tokens
                self._open_gates()
                if planned.until and self._is_open(planned.until):
                    return
        if run.tokens != planned.max_tokens:
            run.error = SHORT_ANSWER

    def _is_open(self, gate: Gate) -> bool:
        runs = self._labelled.get(gate.label, ())
        return all(run.ended is not None or run.tokens >= gate.tokens for run in runs)

    def _open_gates(self) -> None:
        for entry in [entry for entry in self._waiting if self._is_open(entry[0])]:
            self._waiting.remove(entry)
            entry[1].set()
