"""Whether a sequence has the same bits alone and beside others, by length of aligned chunks.

    .venv/bin/python tests/benchmarks/same_bits.py MODEL ... [--units 64 128 256] [--cache f16 q8_0]

Eight prompts of 30 to 620 tokens, cut at multiples of the unit, and 24 tokens after each:
each alone, then three times among the others, in company that chance chooses. Under
`batch_invariant` the backend joins chunks and fills rows as it does in a server. The
logits of each position are compared bit by bit. Other work on the machine changes nothing.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import Close, Open, Output, Run, Step

LENGTHS = (30, 70, 130, 200, 300, 500, 620)
PROMPTS, OUTPUT = 8, 24
JOINED_DIFFERENCE_MAX = 8

Logits = dict[tuple[int, int], set[bytes]]


class Recorder:
    """The logits of each position of each prompt, in all rounds."""

    def __init__(self, backend: LlamaCppBackend) -> None:
        self.seen: Logits = defaultdict(set)
        self._results: Callable[..., Any] = backend._results
        backend._results = self._record  # type: ignore[method-assign]

    def _record(self, runs: Sequence[Run], logits: npt.NDArray[np.float32]) -> Any:
        rows = iter(logits)
        for run in runs:
            if run.output:
                self.seen[run.key, run.start + len(run.tokens)].add(next(rows).tobytes())
        return self._results(runs, logits)


class Prompt:
    """Tokens that are computed in pieces, and how many of them are."""

    def __init__(self, key: int, slot: int, tokens: tuple[int, ...]) -> None:
        self.key, self.slot, self.tokens, self.done = key, slot, tokens, 0
        self.length = len(tokens) - OUTPUT

    def chunk(self, unit: int) -> Run:
        """The next piece of the prompt, up to a multiple of the unit."""
        end = min((self.done // unit + 1) * unit, self.length)
        output = Output.SAMPLE if end == self.length else Output.NONE
        return Run(self.key, self.slot, self.done, self.tokens[self.done : end], output=output)

    def row(self) -> Run:
        """The next token of the output."""
        token = self.tokens[self.done : self.done + 1]
        return Run(self.key, self.slot, self.done, token, output=Output.SAMPLE)


def compute(
    backend: LlamaCppBackend, prompts: list[Prompt], unit: int, chance: random.Random
) -> None:
    """Compute prompts and outputs to their ends, in steps that chance makes up."""
    backend.execute(Step(1, tuple(Open(one.key, Sampling(temperature=0.0)) for one in prompts)))
    live = {one.key: one for one in prompts}
    while live:
        waiting = [one for one in live.values() if one.done < one.length]
        decoding = [one for one in live.values() if one.done >= one.length]
        if waiting and (not decoding or chance.random() < 0.7):
            tokens_max = backend.report.capabilities.call_tokens_max
            runs = _chunks(waiting, unit, tokens_max, chance)
        else:
            runs = [p.row() for p in decoding if len(prompts) == 1 or chance.random() < 0.8]
        result = backend.execute(Step(2, (), tuple(sorted(runs, key=lambda run: run.slot))))
        assert not any(one.error for one in result.runs)
        for run in runs:
            live[run.key].done += len(run.tokens)
            if live[run.key].done == len(live[run.key].tokens):
                del live[run.key]
    backend.execute(Step(3, tuple(Close(one.key) for one in prompts)))


def _chunks(waiting: list[Prompt], unit: int, tokens_max: int, chance: random.Random) -> list[Run]:
    """A chunk, and with some luck one of a neighbour that is about as long."""
    first = chance.choice(waiting)
    runs = [first.chunk(unit)]
    for other in waiting:
        run = other.chunk(unit)
        near = abs(other.slot - first.slot) == 1 and min(len(run.tokens), len(runs[0].tokens)) > 1
        alike = abs(len(run.tokens) - len(runs[0].tokens)) <= JOINED_DIFFERENCE_MAX
        fits = 2 * max(len(run.tokens), len(runs[0].tokens)) <= tokens_max
        if near and alike and fits and len(runs) == 1 and chance.random() < 0.7:
            runs.append(run)
    return runs


def try_bits(path: str, unit: int, cache_type: str, seed: int) -> None:
    """Compute all alone and in company, and print how many positions differ."""
    config = BackendConfig(
        prefill_chunk=unit,
        batch_invariant=True,
        flash_attention=True,
        cache_type=cache_type,
        yield_cores=False,
    )
    backend = LlamaCppBackend(path, config, lambda fraction: None)
    recorder, chance = Recorder(backend), random.Random(seed)
    tokens = [
        tuple(chance.randrange(1000, 40000) for _ in range(chance.choice(LENGTHS) + OUTPUT))
        for _ in range(PROMPTS)
    ]
    slots = range(backend.report.capabilities.slots)
    for key, text in enumerate(tokens):
        compute(backend, [Prompt(key, chance.choice(slots), text)], unit, chance)
    # Without a gap between slots, the rows of all sequences are one batch.
    for chosen in (slots[:PROMPTS], slots[-PROMPTS:], chance.sample(slots, PROMPTS)):
        prompts = [Prompt(key, chosen[key], text) for key, text in enumerate(tokens)]
        compute(backend, prompts, unit, chance)
    differing = sum(len(found) > 1 for found in recorder.seen.values())
    probe = backend.report.capabilities.batch_invariant
    kernels = backend.report.settings["kernels"]
    print(
        f"{Path(path).name} {kernels} {cache_type} unit {unit} seed {seed}: "
        f"{differing} of {len(recorder.seen)} positions differ; the probe says {probe}",
        flush=True,
    )
    backend.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--units", type=int, nargs="*", default=[64, 128, 256])
    parser.add_argument("--cache", nargs="*", default=["f16", "q8_0"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    options = parser.parse_args()
    for path in options.models:
        for cache_type in options.cache:
            for unit in options.units:
                for seed in options.seeds:
                    try_bits(path, unit, cache_type, seed)


if __name__ == "__main__":
    main()
