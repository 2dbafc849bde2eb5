"""Where a decode step's time goes: in llama_decode, in the rest of the runner, and around it.

    .venv/bin/python tests/benchmarks/step_overhead.py MODEL [--rows 1,4,16] [--temperature 0]

Runs the backend in this process for the first two, and the same steps through a
runner's process for the third.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.follow import Follower
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import FOLLOW, Open, Output, Run, Step

STEPS = 100
PROMPT = 64


class Timed:
    """A library that notes how long its `llama_decode` takes, until its results are there."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def llama_decode(self, *arguments: Any) -> Any:
        return self._time(self._library.llama_decode, *arguments)

    def llama_get_logits(self, *arguments: Any) -> Any:
        # Waits for what is still under way.
        return self._time(self._library.llama_get_logits, *arguments)

    def _time(self, call: Callable[..., Any], *arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            self.seconds += time.perf_counter() - started


def first_steps(rows: int, temperature: float) -> list[Step]:
    """Put a prompt into each slot."""
    return [
        Step(
            slot + 1,
            (Open(slot, Sampling(temperature=temperature, seed=slot)),),
            (Run(slot, slot, 0, tuple(range(slot, slot + PROMPT)), output=Output.SAMPLE),),
        )
        for slot in range(rows)
    ]


def next_step(number: int, rows: int) -> Step:
    """A row of each slot, which follows the token drawn last."""
    runs = (
        Run(slot, slot, PROMPT + number, (FOLLOW,), output=Output.SAMPLE) for slot in range(rows)
    )
    return Step(rows + number + 1, runs=tuple(runs))


def inside(model: str, rows: int, temperature: float) -> tuple[float, float]:
    """Median seconds of a step in `llama_decode`, and of the rest."""
    backend = LlamaCppBackend(model, BackendConfig(), lambda fraction: None)
    timed = backend._model._library = Timed(backend._model._library)
    follower = Follower(backend.execute)
    for step in first_steps(rows, temperature):
        follower.execute(step)
    kernel, rest = [], []
    for number in range(STEPS):
        step, timed.seconds = next_step(number, rows), 0.0
        started = time.perf_counter()
        follower.execute(step)
        kernel.append(timed.seconds)
        rest.append(time.perf_counter() - started - timed.seconds)
    backend.close()
    return statistics.median(kernel), statistics.median(rest)


async def around(model: str, rows: int, temperature: float) -> float:
    """Median seconds that a step takes beyond what the runner took: both ways through the pipe."""
    runner = ProcessRunner("llama.cpp", model)
    await runner.start()
    try:
        for step in first_steps(rows, temperature):
            await runner.begin(step)
        beyond = []
        for number in range(STEPS):
            step = next_step(number, rows)
            started = time.perf_counter()
            result = await runner.begin(step)
            beyond.append(time.perf_counter() - started - result.seconds)
        return statistics.median(beyond)
    finally:
        await runner.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--rows", default="1,4,16")
    parser.add_argument("--temperature", type=float, default=0.0)
    options = parser.parse_args()
    print("rows  llama_decode ms  rest of the runner ms  pipe ms  outside the kernel")
    for rows in map(int, options.rows.split(",")):
        kernel, rest = inside(options.model, rows, options.temperature)
        pipe = asyncio.run(around(options.model, rows, options.temperature))
        share = (rest + pipe) / (kernel + rest + pipe)
        print(f"{rows:4}{kernel * 1e3:17.2f}{rest * 1e3:23.2f}{pipe * 1e3:9.2f}{share:20.1%}")


if __name__ == "__main__":
    main()
