"""A small backend: the next byte by how often it followed the last three in a text file."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from llm_serving_engine.backends.backend import BackendConfig, LoadError, LoadReport, Progress
from llm_serving_engine.backends.key_samplers import KeySamplers
from llm_serving_engine.backends.sampler import Logits
from llm_serving_engine.backends.scripted import END_OF_SEQUENCE, VOCABULARY_SIZE, ByteTokenizer
from llm_serving_engine.scheduler.step import (
    Capabilities,
    Close,
    Copy,
    Open,
    Run,
    RunResult,
    Step,
    StepResult,
)

ORDER = 3


class MarkovBackend:
    """Its cache is the tokens themselves, a list for each slot."""

    def __init__(self, path: str, config: BackendConfig, progress: Progress) -> None:
        try:
            self._counts = _count(Path(path).read_bytes())
        except OSError as error:
            raise LoadError(f"{path} cannot be read: {error.strerror}") from error
        progress(1.0)
        capabilities = Capabilities(
            slots=config.sequences or 8,
            context=config.context_per_sequence or 4096,
            batch_invariant=True,
        )
        self.report = LoadReport(capabilities, settings={}, memory_bytes={})
        self._caches: list[list[int]] = [[] for _ in range(capabilities.slots)]
        self._samplers = KeySamplers()

    @staticmethod
    def load_tokenizer(path: Path, config: BackendConfig) -> ByteTokenizer:
        """Tokens are bytes, whatever the file."""
        return ByteTokenizer()

    def execute(self, step: Step) -> StepResult:
        """Do a step: its operations in order, then its runs."""
        started = time.perf_counter()
        for operation in step.operations:
            if isinstance(operation, Open):
                self._samplers.open(operation)
            elif isinstance(operation, Close):
                self._samplers.close(operation.key)
            elif isinstance(operation, Copy):
                kept = self._caches[operation.source][: operation.tokens]
                self._caches[operation.target] = kept
        runs = tuple(map(self._compute, step.runs))
        return StepResult(step.number, runs=runs, seconds=time.perf_counter() - started)

    def close(self) -> None:
        """Forget everything."""
        self._caches.clear()

    def _compute(self, run: Run) -> RunResult:
        cache = self._caches[run.slot]
        if run.start > len(cache):
            return RunResult(run.key, 0)
        cache[run.start :] = run.tokens
        if len(cache) > self.report.capabilities.context:
            cache.clear()
            return RunResult(run.key, 0, error="the cache is full")
        result = self._samplers.result(run, self._logits(cache))
        if result.error:
            cache.clear()
        return result

    def _logits(self, tokens: list[int]) -> Logits:
        """By the longest end of `tokens` that the text has."""
        for length in range(ORDER, 0, -1):
            counts = self._counts.get(tuple(tokens[-length:]))
            if counts is not None:
                return np.log(counts)
        return np.log(self._counts[()])


def _count(text: bytes) -> dict[tuple[int, ...], Logits]:
    """How often each token follows each run of up to ORDER tokens, and a little for all others."""
    counts: dict[tuple[int, ...], Logits] = defaultdict(
        lambda: np.full(VOCABULARY_SIZE, 0.01, np.float32)
    )
    tokens = (*text, END_OF_SEQUENCE)
    for position, token in enumerate(tokens):
        for length in range(min(ORDER, position) + 1):
            counts[tokens[position - length : position]][token] += 1
    return dict(counts)
