"""Executes steps on llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from llm_serving_engine.backends import machine, previous_runner
from llm_serving_engine.backends.backend import (
    BackendConfig,
    LoadError,
    LoadReport,
    Progress,
)
from llm_serving_engine.backends.key_samplers import KeySamplers
from llm_serving_engine.backends.llama_cpp.fillers import with_fillers
from llm_serving_engine.backends.llama_cpp.kernel_choice import with_kernels
from llm_serving_engine.backends.llama_cpp.memory import estimate_memory
from llm_serving_engine.backends.llama_cpp.model import DecodeError, LlamaModel, SavedCache
from llm_serving_engine.backends.llama_cpp.padding import TILED_TOKENS, fits, padded, same_kernels
from llm_serving_engine.backends.llama_cpp.part import Part
from llm_serving_engine.backends.llama_cpp.probe import keeps_bits, kept_bits
from llm_serving_engine.backends.llama_cpp.settings import (
    CACHE_TYPES,
    PREFILL_CHUNK_CPU,
    Settings,
)
from llm_serving_engine.backends.llama_cpp.speed_choice import choose_speed
from llm_serving_engine.backends.llama_cpp.speeds import timed_calls
from llm_serving_engine.backends.llama_cpp.tails import SHORT, Tails
from llm_serving_engine.backends.memory_estimate import check_fits
from llm_serving_engine.backends.models.errors import ModelError
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.models.kinds import check_generates
from llm_serving_engine.backends.other_processes import OtherProcesses
from llm_serving_engine.backends.text.tokenizer import LlamaTokenizer
from llm_serving_engine.backends.threads import ThreadCount
from llm_serving_engine.scheduler.step import (
    Capabilities,
    Close,
    Copy,
    Drop,
    Open,
    Operation,
    Restore,
    Run,
    RunResult,
    Save,
    Shape,
    Step,
    StepResult,
    shape_of,
)

# Of one step: tokens that a stream gets together, at most.
CALLS_MAX = 8


class LlamaCppBackend:
    """One model, many sequences.

    Chunks of prompts and rows are computed apart, and chunks share a call only where
    each keeps its bits: what a sequence computes does not depend on the others.
    """

    def __init__(self, path: str, config: BackendConfig, progress: Progress) -> None:
        try:
            info = ModelInfo.read(Path(path))
            check_generates(info)
            settings = Settings.choose(config, info)
            settings, notes = with_kernels(settings, info, config.batch_invariant)
            self._notes = notes.sentences()
            check_fits(estimate_memory(info, settings), config.memory_bytes_max)
            # Beside others, all threads would wait for each other many times in each call.
            cores, others = len(machine.allowed_cores()), machine.core_seconds_of_strangers
            count = ThreadCount(settings.threads, cores, others)
            self._model = LlamaModel(path, settings, progress, count.after_loading)
        except ModelError as error:
            raise LoadError(str(error)) from error
        self._samplers = KeySamplers()
        self._snapshots: dict[int, SavedCache] = {}
        self._lengths = [0] * settings.sequences
        self._executed: list[Part] = []
        self._config = config
        self._info = info
        # Requests wait for a runner that replaces another: they warm it up.
        earlier = previous_runner.recall()
        if earlier is None:
            speeds = self._measure(lambda: progress(1.0))
            invariant = self._model.cache.unlimited and self._keeps_bits()
        else:
            speeds, invariant = earlier.speeds, earlier.batch_invariant
        self._threads = ThreadCount.of(settings.threads, config)
        self._model.use_threads(self._threads.now)
        pads = self._model.cache.unlimited and not config.batch_invariant
        self._tails = Tails.of(speeds) if pads else None
        self.report = self._make_report(info, speeds, batch_invariant=invariant)

    def _measure(self, goes_on: Callable[[], None]) -> tuple[tuple[Shape, float], ...]:
        """Choose attention and unit, and time calls with them."""
        path = self._info.path
        choice = choose_speed(self._model, path, self._config, self._could_load, goes_on)
        self._notes += choice.reasons
        others = OtherProcesses()
        speeds = timed_calls(self._model, goes_on, others)
        if others.crowded():
            estimated = "the step target and the first costs of calls are estimates"
            self._notes += (f"{estimated}: other processes took {others.cores:.1f} cores",)
        return (*speeds, *((call.shape, seconds) for call, seconds in choice.times.items()))

    def _could_load(self, settings: Settings) -> bool:
        """Whether there is memory for other settings of the model that is loaded."""
        extra = estimate_memory(self._info, settings).total
        extra -= estimate_memory(self._info, self._model.settings).total
        limit = self._config.memory_bytes_max
        total = psutil.Process().memory_info().rss + extra
        return extra < machine.available_memory() and (limit is None or total <= limit)

    def _keeps_bits(self) -> bool:
        """Whether what a sequence computes does not depend on the others; tried where it must."""
        unit = self._model.settings.prefill_chunk
        if self._config.batch_invariant:
            return keeps_bits(self._model, unit)
        return kept_bits(self._model, min(unit, PREFILL_CHUNK_CPU), self._info.path)

    @staticmethod
    def load_tokenizer(path: Path, config: BackendConfig) -> LlamaTokenizer:
        """The vocabulary of a GGUF file. Raises ModelError."""
        del config
        return LlamaTokenizer(path)

    def execute(self, step: Step) -> StepResult:
        """Do a step: its operations in order, then its runs in one call."""
        started = time.perf_counter()
        if self._threads.begin():
            self._model.use_threads(self._threads.now)
        failed = [i for i, operation in enumerate(step.operations) if not self._do(operation)]
        operated = time.perf_counter()
        self._executed = []
        ready = [run for run in step.runs if self._ready(run)]
        results = {result.key: result for result in self._compute(ready)}
        self._threads.end()
        return StepResult(
            step.number,
            runs=tuple(results.get(run.key) or RunResult(run.key, 0) for run in step.runs),
            failed=tuple(failed),
            seconds=time.perf_counter() - operated,
            operation_seconds=operated - started,
            shape=shape_of((part.slot, part.start, part.length) for part in self._executed),
            threads=self._threads.now,
        )

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    # Operations

    def _do(self, operation: Operation) -> bool:
        """Do an operation; False where it failed."""
        if isinstance(operation, Open):
            self._samplers.open(operation)
        elif isinstance(operation, Close):
            self._samplers.close(operation.key)
        elif isinstance(operation, Copy):
            copied = self._model.copy(*operation)
            return self._holds(operation.target, operation.tokens, copied)
        elif isinstance(operation, Save):
            return self._save(operation)
        elif isinstance(operation, Restore):
            saved = self._snapshots.get(operation.snapshot)
            restored = saved is not None and self._model.restore(operation.slot, saved)
            return self._holds(operation.slot, operation.tokens, restored)
        elif isinstance(operation, Drop):
            self._snapshots.pop(operation.snapshot, None)
        return True

    def _holds(self, slot: int, tokens: int, done: bool) -> bool:
        """Take in that a slot holds so many tokens now, or none where that failed."""
        if not done:
            self._model.clear(slot)
        self._lengths[slot] = tokens if done else 0
        return done

    def _save(self, operation: Save) -> bool:
        try:
            self._snapshots[operation.snapshot] = self._model.save(operation.slot)
        except (DecodeError, MemoryError):
            return False
        return True

    # Runs

    def _ready(self, run: Run) -> bool:
        """Make the slot as long as the run begins; False where that cannot be."""
        length = self._lengths[run.slot]
        if length > run.start:
            dropped = self._model.drop_from(run.slot, run.start)
            return self._holds(run.slot, run.start, dropped)
        return length == run.start

    def _compute(self, runs: Sequence[Run]) -> list[RunResult]:
        if not runs:
            return []
        if all(len(run.tokens) == 1 for run in runs):
            return self._call(runs, self._rows(runs))
        parts = self._whole_tiles(padded([Part.of(run) for run in runs]))
        if len(runs) > 1 and not self._together(parts):
            return [result for run in runs for result in self._compute([run])]
        return self._call(runs, parts)

    def _together(self, parts: Sequence[Part]) -> bool:
        droppable = self._model.cache.unlimited or not any(part.padding for part in parts)
        same = not self._config.batch_invariant or same_kernels(parts)
        return droppable and same and fits(parts, self._model.context_per_sequence)

    def _whole_tiles(self, parts: list[Part]) -> list[Part]:
        """The ends of prompts, filled up to whole tiles where that is faster."""
        if self._tails is None:
            return parts
        start = max(part.start for part in parts)
        length = self._tails.padded_length(parts[0].length, start)
        filled = [part._replace(padding=length - len(part.tokens)) for part in parts]
        room = length * len(parts) <= self._model.settings.rows_max
        return filled if room and fits(filled, self._model.context_per_sequence) else parts

    def _rows(self, runs: Sequence[Run]) -> list[Part]:
        rows = [Part.of(run) for run in runs]
        return with_fillers(
            rows,
            len(self._lengths),
            self._room,
            kernels=self._model.settings.kernels,
            invariant=self._config.batch_invariant,
        )

    def _room(self, slot: int) -> int | None:
        """Where a filler can be put: what it adds to the slot must go away again."""
        length = self._lengths[slot]
        room = length < self._model.context_per_sequence
        return length if room and (length == 0 or self._model.cache.unlimited) else None

    def _call(self, runs: Sequence[Run], parts: Sequence[Part]) -> list[RunResult]:
        """Compute parts, of which the runs are some, in one call."""
        try:
            logits = self._model.decode(parts)
        except DecodeError as error:
            if len(runs) > 1:
                # Retry each alone, to find the one that caused it.
                return [result for run in runs for result in self._compute([run])]
            return [self._failed(runs[0], str(error))]
        self._executed += parts
        ends = {run.slot: run.start + len(run.tokens) for run in runs}
        for part in parts:
            end = ends.get(part.slot, part.start)
            self._lengths[part.slot] = end
            if part.start + part.length > end:
                self._model.drop_fillers(part.slot, end)
        return self._results(runs, logits)

    def _results(self, runs: Sequence[Run], logits: npt.NDArray[np.float32]) -> list[RunResult]:
        """Draw what the runs ask for. `logits` has a row for each that wants one."""
        likeliest = logits.argmax(axis=1)
        rows = iter(range(len(logits)))
        results = [
            self._samplers.result(run, logits[i], int(likeliest[i]))
            if run.output and (i := next(rows)) >= 0
            else RunResult(run.key, len(run.tokens))
            for run in runs
        ]
        for run, result in zip(runs, results, strict=True):
            if result.error is not None:
                self._empty(run.slot)
        if any(result.code for result in results):
            self._model.scrub()
        return results

    def _failed(self, run: Run, reason: str) -> RunResult:
        self._empty(run.slot)
        return RunResult(run.key, 0, error=reason)

    def _empty(self, slot: int) -> None:
        self._model.clear(slot)
        self._lengths[slot] = 0

    # What it can do

    def _make_report(
        self, info: ModelInfo, speeds: tuple[tuple[Shape, float], ...], *, batch_invariant: bool
    ) -> LoadReport:
        settings, model = self._model.settings, self._model
        token_bytes = info.cache_bytes_per_token(CACHE_TYPES[settings.cache_type])
        capabilities = Capabilities(
            slots=settings.sequences,
            context=model.context_per_sequence,
            chunk=settings.prefill_chunk,
            call_tokens_max=settings.rows_max,
            rollback=model.cache.rollback,
            snapshots=True,
            joins=model.cache.unlimited,
            tile=TILED_TOKENS,
            chunk_min=self._tails.shortest(model.context_per_sequence) if self._tails else SHORT,
            calls_max=CALLS_MAX,
            batch_invariant=batch_invariant,
            token_bytes=token_bytes,
            state_bytes=info.state_bytes,
            speeds=speeds,
        )
        sequence_bytes = info.sequence_bytes(
            model.context_per_sequence, CACHE_TYPES[settings.cache_type]
        )
        cache = sequence_bytes * settings.sequences
        resident = psutil.Process().memory_info().rss
        memory = {
            "weights": model.weights_bytes,
            "cache": cache,
            "buffers": max(resident - model.weights_bytes - cache, 0),
        }
        estimate = estimate_memory(info, settings).total
        return LoadReport(capabilities, settings.described(), memory, estimate, self._notes)
