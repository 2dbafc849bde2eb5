"""Carries out a phase of a plan against a target."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from llm_serving_engine.clients.bench.plan import Gate, Phase, PlannedRequest
from llm_serving_engine.clients.bench.record import (
    SHORT_ANSWER,
    Arrival,
    PhaseRecord,
    Record,
)
from llm_serving_engine.clients.bench.target import Ended, Target, TargetError

ERROR_PAUSE_SECONDS = 0.1  # before a lane goes on, so that refusals do not come in a storm


async def drive(
    phase: Phase, target: Target, on_end: Callable[[], None] = lambda: None
) -> PhaseRecord:
    """Run the phase's lanes side by side; `on_end` is called as each request ends.

    Those that were not sent before the phase's time was over end with it, and
    leave no record.
    """
    cpu = time.process_time()
    driver = _Driver(phase, target, on_end)
    await _run_for(phase.seconds, [driver.lane(runs) for runs in driver.lanes])
    runs = [run for runs in driver.lanes for run in runs]
    for run in runs:
        if run.sent is None:
            on_end()
    return PhaseRecord(
        name=phase.name,
        requests=tuple(run.record(run.sent) for run in runs if run.sent is not None),
        cpu_seconds=time.process_time() - cpu,
    )


async def _run_for(seconds: float | None, lanes: Sequence[Coroutine[None, None, None]]) -> None:
    """Run side by side, and cancel what is not done in time."""
    tasks = [asyncio.ensure_future(lane) for lane in lanes]
    try:
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


NOTHING_TOLD = Ended()


@dataclass(slots=True, eq=False)
class _Run:
    """A planned request, and its output so far."""

    planned: PlannedRequest
    sent: float | None = None
    ended: float | None = None
    arrivals: list[Arrival] = field(default_factory=list)
    tokens: int = 0
    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    told: Ended = NOTHING_TOLD
    error: TargetError | None = None

    @property
    def whole(self) -> bool:
        """Whether it has the planned tokens; the server's count goes before what was seen."""
        tokens = self.tokens if self.told.tokens is None else self.told.tokens
        return tokens == self.planned.max_tokens

    def record(self, sent: float) -> Record:
        return Record(
            label=self.planned.label,
            sent=sent,
            ended=sent if self.ended is None else self.ended,
            arrivals=tuple(self.arrivals),
            error=self.error.code if self.error else "",
            finished=self.error is None and self.whole,
            token_ids=tuple(self.token_ids),
            prompt_tokens=self.told.prompt_tokens,
            text="".join(self.texts),
            told_tokens=self.told.tokens,
            deadline=self.planned.deadline,
            reason=self.error.reason if self.error else "",
            retry_after=self.error.retry_after if self.error else None,
        )


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
        pause, said = 0.0, ""
        for run in runs:
            planned = run.planned
            if planned.continues:
                planned = replace(planned, prompt=said + planned.prompt)
            await self._wait(planned, pause)
            run.sent = time.perf_counter()
            try:
                await self._stream(planned, run)
            except TargetError as error:
                run.error = error
            finally:
                run.ended = time.perf_counter()
                self._open_gates()
                self._on_end()
            pause = ERROR_PAUSE_SECONDS if run.error else 0.0
            said = planned.prompt + "".join(run.texts)

    async def _wait(self, planned: PlannedRequest, pause: float) -> None:
        until = max(self._start + planned.at, time.perf_counter() + max(pause, planned.pause))
        delay = until - time.perf_counter()
        if delay > 0:
            await asyncio.sleep(delay)
        if planned.after and not self._is_open(planned.after):
            opened = asyncio.Event()
            self._waiting.append((planned.after, opened))
            await opened.wait()

    async def _stream(self, planned: PlannedRequest, run: _Run) -> None:
        async with aclosing(self._target.stream(planned)) as stream:
            async for output in stream:
                if isinstance(output, Ended):
                    run.told = output
                    continue
                if output.tokens:
                    run.arrivals.append(Arrival(time.perf_counter(), output.tokens))
                    run.tokens += output.tokens
                run.token_ids += output.token_ids
                run.texts.append(output.text)
                self._open_gates()
                if planned.until and self._is_open(planned.until):
                    return
        if not run.whole:
            raise TargetError(SHORT_ANSWER, "the answer has other than the tokens asked for")

    def _is_open(self, gate: Gate) -> bool:
        runs = self._labelled.get(gate.label, ())
        return all(run.ended is not None or run.tokens >= gate.tokens for run in runs)

    def _open_gates(self) -> None:
        for entry in [entry for entry in self._waiting if self._is_open(entry[0])]:
            self._waiting.remove(entry)
            entry[1].set()
