"""How long llama.cpp computes rows and chunks: what steps are made of.

    .venv/bin/python tests/benchmarks/kernel_times.py MODEL [--rounds 15]

Calls the model in this process with exactly these tokens: the backend would add
filler rows where that is faster.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.model import LlamaModel
from llm_serving_engine.backends.llama_cpp.part import Part
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.models.info import ModelInfo

CHUNK, LONGEST = 64, 256
SLOTS = 16


class Case(NamedTuple):
    """Some calls, one after the other.

    Attributes:
        name: What they compute.
        before: Tokens that are in each slot's cache.
        calls: The slots of each, with as many tokens.
        tokens: Of each slot in a call.
        copies: Of slot 0, before the first call.
    """

    name: str
    before: int
    calls: tuple[tuple[int, ...], ...]
    tokens: int = 1
    copies: int = 0

    @property
    def slots(self) -> set[int]:
        return {slot for call in self.calls for slot in call}


def rows_and_runs() -> Iterable[Case]:
    for rows in (1, 2, 3, 4, 5, 7, 8, 12, 15, 16):
        yield Case(f"{rows} rows", CHUNK, (tuple(range(rows)),))
    for rows in (1, 8, 16):
        yield Case(f"{rows} rows after 768", 768, (tuple(range(rows)),))
    yield Case("3 rows and 1, in two runs", CHUNK, ((0, 1, 2, 4),))
    yield Case("2 rows and 2, in two runs", CHUNK, ((0, 1, 3, 4),))
    yield Case("4 rows, each a run", CHUNK, ((0, 2, 4, 6),))


def chunks() -> Iterable[Case]:
    everybody = tuple(range(SLOTS))
    yield Case("64 tokens at a prompt's beginning", 0, ((0,),), CHUNK)
    yield Case("64 tokens of 4 prompts, one by one", 0, ((0,), (1,), (2,), (3,)), CHUNK)
    yield Case("64 tokens of 4 prompts, together", 0, ((0, 1, 2, 3),), CHUNK)
    yield Case("3 tokens after 64", CHUNK, ((0,),), 3)
    yield Case("3 tokens of 16 prompts, one by one", CHUNK, tuple((s,) for s in everybody), 3)
    yield Case("3 tokens of 16 prompts, together", CHUNK, (everybody,), 3)
    yield Case("32 tokens after 768", 768, ((0,),), CHUNK // 2)
    yield Case("63 tokens after 768", 768, ((0,),), CHUNK - 1)
    yield Case("64 tokens after 768", 768, ((0,),), CHUNK)
    yield Case("72 tokens after 768", 768, ((0,),), CHUNK + 8)
    yield Case("128 tokens after 768", 768, ((0,),), 2 * CHUNK)
    yield Case("256 tokens after 768", 768, ((0,),), LONGEST)
    yield Case("64 tokens after 960", 960, ((0,),), CHUNK)


def copies() -> Iterable[Case]:
    for before in (100, 1000):
        for count in (0, 1, 3):
            yield Case(f"{count} copies of {before}, 4 rows", before, ((0, 1, 2, 3),), 1, count)


class Kernels:
    """A model with what its slots hold."""

    def __init__(self, path: str) -> None:
        settings = Settings.choose(BackendConfig(sequences=SLOTS), ModelInfo.read(Path(path)))
        settings = replace(settings, prefill_chunk=LONGEST)
        self._model = LlamaModel(path, settings, lambda fraction: None)
        self._random = random.Random(1)

    def seconds(self, case: Case) -> float:
        """Compute a case once, and forget it."""
        calls = [
            [self._part(slot, case.before, case.tokens) for slot in call] for call in case.calls
        ]
        targets = range(SLOTS - case.copies, SLOTS)
        started = time.perf_counter()
        for target in targets:
            self._model.copy(0, target, case.before)
        for call in calls:
            self._model.decode(call)
        seconds = time.perf_counter() - started
        for target in targets:
            self._model.clear(target)
        for slot in case.slots:
            self._model.drop_from(slot, case.before)
        return seconds

    def fill(self, slot: int, tokens: int) -> None:
        """Bring so many tokens into a slot's cache."""
        while (at := self._model.length(slot)) < tokens:
            self._model.decode([self._part(slot, at, min(CHUNK, tokens - at))])

    def close(self) -> None:
        self._model.close()

    def _part(self, slot: int, position: int, tokens: int) -> Part:
        return Part(slot, position, self._some(tokens), True)

    def _some(self, tokens: int) -> tuple[int, ...]:
        return tuple(self._random.choices(range(self._model.vocabulary_size), k=tokens))


def measure(kernels: Kernels, cases: list[Case], rounds: int) -> dict[Case, float]:
    """Median seconds of each; cases with equally much before them take turns."""
    times: dict[Case, list[float]] = {case: [] for case in cases}
    for before, alike in itertools.groupby(cases, key=lambda case: case.before):
        group = list(alike)
        for slot in set().union(*(case.slots for case in group)):
            kernels.fill(slot, before)
        for _ in range(rounds):
            for case in group:
                times[case].append(kernels.seconds(case))
    return {case: statistics.median(seconds) for case, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    kernels = Kernels(options.model)
    cases = [*rows_and_runs(), *chunks(), *copies()]
    by_before = sorted(cases, key=lambda case: case.before)
    medians = measure(kernels, by_before, options.rounds)
    kernels.close()
    for case in cases:
        print(f"{case.name:40}{medians[case] * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
