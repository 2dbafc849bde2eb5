"""A small backend: the next byte by how often it followed the last three in a text file."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from llm_serving_engine.backends.backend import BackendConfig, LoadError, LoadReport, Progress
from llm_serving_engine.backends.sampler import Logits
from llm_serving_engine.backends.scripted import END_OF_SEQUENCE, VOCABULARY_SIZE, ByteTokenizer
from llm_serving_engine.backends.slot_samplers import SlotSamplers
from llm_serving_engine.scheduler.step import (
    Capabilities,
    ClearSlot,
    CopyPrefix,
    DecodeRow,
    PrefillChunk,
    SampledToken,
    SlotFailure,
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
            sequences_max=config.sequences or 8,
            context_per_sequence=config.context_per_sequence or 4096,
            batch_invariant=True,
        )
        self.report = LoadReport(capabilities, settings={}, memory_bytes={})
        self._caches: list[list[int]] = [[] for _ in range(capabilities.sequences_max)]
        self._samplers = SlotSamplers(capabilities.sequences_max)

    @staticmethod
    def load_tokenizer(path: Path, config: BackendConfig) -> ByteTokenizer:
        """Tokens are bytes, whatever the file."""
        return ByteTokenizer()

    def execute(self, step: Step) -> StepResult:
        """Do a step's parts in order."""
        started = time.perf_counter()
        for operation in step.operations:
            if isinstance(operation, ClearSlot):
                del self._caches[operation.slot][operation.from_position :]
            elif isinstance(operation, CopyPrefix):
                kept = self._caches[operation.source][: operation.tokens]
                self._caches[operation.target] = kept
        for opened in step.opens:
            self._samplers.open(opened)
        tokens: list[SampledToken] = []
        failures: list[SlotFailure] = []
        parts: tuple[PrefillChunk | DecodeRow, ...] = (*step.prefills, *step.decodes)
        for part in parts:
            outcome = self._compute(part)
            if isinstance(outcome, SampledToken):
                tokens.append(outcome)
            elif outcome is not None:
                failures.append(outcome)
        duration = time.perf_counter() - started
        return StepResult(step.number, tuple(tokens), tuple(failures), duration)

    def close(self) -> None:
        """Forget everything."""
        self._caches.clear()

    def _compute(self, part: PrefillChunk | DecodeRow) -> SampledToken | SlotFailure | None:
        cache = self._caches[part.slot]
        cache += part.tokens if isinstance(part, PrefillChunk) else (part.token,)
        if len(cache) > self.report.capabilities.context_per_sequence:
            cache.clear()
            return SlotFailure(part.slot, "there is no room in the cache")
        if isinstance(part, PrefillChunk) and not part.sample:
            return None
        return self._samplers.sample(part.slot, self._logits(cache))

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
