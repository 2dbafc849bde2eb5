"""Executes steps on llama.cpp."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from llm_serving_engine.backends import earlier_load
from llm_serving_engine.backends.backend import (
    BackendConfig,
    LoadError,
    LoadReport,
    Progress,
)
from llm_serving_engine.backends.llama_cpp.company import (
    add_company,
    complete_tiles,
    fill_holes,
)
from llm_serving_engine.backends.llama_cpp.joint import Part, joint_calls, parts_of
from llm_serving_engine.backends.llama_cpp.memory import estimate_memory
from llm_serving_engine.backends.llama_cpp.model import DecodeError, LlamaModel, SavedCache
from llm_serving_engine.backends.llama_cpp.probe import keeps_bits
from llm_serving_engine.backends.llama_cpp.settings import CACHE_TYPES, Settings
from llm_serving_engine.backends.models.errors import ModelError
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.models.kinds import check_generates
from llm_serving_engine.backends.models.memory import check_fits
from llm_serving_engine.backends.slot_samplers import SlotSamplers
from llm_serving_engine.backends.speed import measured_speed
from llm_serving_engine.backends.text.tokenizer import LlamaTokenizer
from llm_serving_engine.backends.threads import ThreadCount
from llm_serving_engine.scheduler.step import (
    CacheOperation,
    Capabilities,
    ClearSlot,
    CopyPrefix,
    DecodeRow,
    PrefillChunk,
    RestoreSlot,
    SampledToken,
    SaveSlot,
    SlotFailure,
    Step,
    StepResult,
)


class LlamaCppBackend:
    """One model, many sequences.

    Prefill chunks are cut at fixed places, those of several sequences share a
    call only where each keeps its bits, and decode rows are batched apart from
    them: so what a sequence computes does not depend on its company.
    """

    def __init__(self, path: str, config: BackendConfig, progress: Progress) -> None:
        try:
            info = ModelInfo.read(Path(path))
            check_generates(info)
            settings = Settings.choose(config, info)
            self._estimate = estimate_memory(info, settings)
            check_fits(self._estimate, config.memory_bytes_max)
            self._model = LlamaModel(path, settings, progress)
        except ModelError as error:
            raise LoadError(str(error)) from error
        self._samplers = SlotSamplers(self._model.settings.sequences)
        self._failures: dict[int, SlotFailure] = {}
        self._saved: dict[int, SavedCache | None] = {}
        self._config = config
        self._threads = ThreadCount.of(self._model.settings.threads, config)
        self._earlier = earlier_load.recall()
        self._speed = self._warm_up(lambda: progress(1.0))
        self.report = self._make_report(info)

    @staticmethod
    def load_tokenizer(path: Path, config: BackendConfig) -> LlamaTokenizer:
        """The vocabulary of a GGUF file. Raises ModelError."""
        del config
        return LlamaTokenizer(path)

    def execute(self, step: Step) -> StepResult:
        """Do a step's parts in order."""
        started = time.perf_counter()
        self._failures = {}
        if self._threads.begin():
            self._model.use_threads(self._threads.now)
        for operation in step.operations:
            self._operate(operation)
        for opened in step.opens:
            self._samplers.open(opened)
        sampled = self._prefill(step.prefills)
        sampled += self._decode(step.decodes)
        failures = tuple(self._failures.values())
        self._threads.end()
        seconds = time.perf_counter() - started
        return StepResult(step.number, tuple(sampled), failures, seconds, self._threads.now)

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def _operate(self, operation: CacheOperation) -> None:
        if isinstance(operation, ClearSlot):
            if not self._model.drop_from(*operation):
                self._fail(operation.slot, "the model cannot drop a part of a sequence")
        elif isinstance(operation, CopyPrefix):
            if not self._model.copy(*operation):
                self._fail(operation.target, "the model cannot drop a part of a sequence")
        elif isinstance(operation, SaveSlot):
            self._save(operation)
        elif isinstance(operation, RestoreSlot):
            saved = self._saved.pop(operation.key)
            if saved is None or not self._model.restore(operation.slot, saved):
                self._fail(operation.slot, "the saved cache could not be restored")
        else:
            del self._saved[operation.key]

    def _save(self, operation: SaveSlot) -> None:
        """Save a slot's cache; one that cannot be saved fails when it is asked for."""
        try:
            self._saved[operation.key] = self._model.save(operation.slot)
        except DecodeError:
            self._saved[operation.key] = None

    def _prefill(self, chunks: tuple[PrefillChunk, ...]) -> list[SampledToken]:
        unit, aligned = self._model.settings.prefill_chunk, self._config.batch_invariant
        chunked = [parts_of(chunk, unit, aligned=aligned) for chunk in chunks]
        calls = joint_calls(chunked, self._model.limits)
        return [token for parts in calls for token in self._compute(parts)]

    def _compute(self, parts: list[Part]) -> list[SampledToken]:
        parts = [part for part in parts if part.slot not in self._failures]
        if not parts:
            return []
        try:
            logits = self._logits(parts)
        except DecodeError as error:
            if len(parts) > 1:
                # Whose fault it is shows alone.
                alone = ([part._replace(padding=0)] for part in parts)
                return [token for part in alone for token in self._compute(part)]
            self._fail(parts[0].slot, str(error))
            return []
        slots = [part.slot for part in parts if part.sample]
        return self._sample(slots, logits)

    def _logits(self, parts: list[Part]) -> npt.NDArray[np.float32]:
        part = parts[0]
        if part.row:
            # As a decode row it had company where it needed some.
            return self._compute_rows((DecodeRow(part.slot, part.position, *part.tokens),))
        return self._model.decode_parts(parts)

    def _decode(self, rows: tuple[DecodeRow, ...]) -> list[SampledToken]:
        rows = tuple(row for row in rows if row.slot not in self._failures)
        if not rows:
            return []
        try:
            logits = self._compute_rows(rows)
        except DecodeError as error:
            for row in rows:
                self._fail(row.slot, str(error))
            return []
        return self._sample([row.slot for row in rows], logits)

    def _sample(self, slots: list[int], logits: npt.NDArray[np.float32]) -> list[SampledToken]:
        """Choose a token for each slot, by logits of shape (slots, vocabulary)."""
        likeliest = logits.argmax(axis=1)
        outcomes = [
            self._samplers.sample(slot, row, int(likeliest[i]))
            for i, (slot, row) in enumerate(zip(slots, logits, strict=True))
        ]
        failures = [outcome for outcome in outcomes if isinstance(outcome, SlotFailure)]
        for failure in failures:
            self._fail(*failure)
        if failures:
            self._model.scrub()
        return [outcome for outcome in outcomes if isinstance(outcome, SampledToken)]

    def _compute_rows(self, rows: tuple[DecodeRow, ...]) -> npt.NDArray[np.float32]:
        count = self._model.settings.sequences
        batch = complete_tiles(fill_holes(rows, self._room), count, self._room)
        if self._config.batch_invariant:
            batch = add_company(batch, count, self._room)
        if len(batch) == len(rows):
            return self._model.decode_rows(rows)
        slots = {row.slot for row in rows}
        logits = self._model.decode_rows(batch, [row.slot in slots for row in batch])
        for row in batch:
            if row.slot not in slots:
                self._model.drop_fillers(row.slot, row.position)
        return logits

    def _room(self, slot: int) -> int | None:
        """Where a filler row would stand in a slot; None where there can be none."""
        length = self._model.length(slot)
        if length and not self._model.cache.unlimited:
            return None  # it could not be dropped again
        return length if length < self._model.context_per_sequence else None

    def _fail(self, slot: int, reason: str, code: str = "") -> None:
        self._failures[slot] = SlotFailure(slot, reason, code)
        self._model.clear(slot)

    def _warm_up(self, goes_on: Callable[[], None]) -> tuple[float, float]:
        """Touch the weights and the buffers, so that the first request is like any other.

        Args:
            goes_on: Told after each computation: a large model's take long, and
                whoever waits for it must know that it does not hang.

        Returns:
            Seconds for a prompt token, and for a step of one decode row.
        """
        if self._earlier is not None:
            # Requests wait for this runner: they warm it up.
            return self._earlier.prefill_token_seconds, self._earlier.decode_step_seconds
        length = min(self._model.settings.prefill_chunk, self._model.context_per_sequence // 2)
        chunk = (0,) * length
        goes_on()
        self._model.decode_chunk(0, 0, chunk, sample=True)
        self._model.clear(0)
        goes_on()
        speed = measured_speed(
            length,
            lambda: self._model.decode_chunk(0, 0, chunk, sample=True),
            lambda trial: self._model.decode_rows((DecodeRow(0, length + trial, 0),)),
        )
        self._model.clear(0)
        goes_on()
        return speed

    def _keeps_bits(self) -> bool:
        if self._earlier is not None:
            return self._earlier.batch_invariant
        return self._model.cache.unlimited and keeps_bits(self._model)

    def _make_report(self, info: ModelInfo) -> LoadReport:
        settings, model = self._model.settings, self._model
        token_bytes = info.cache_bytes_per_token(CACHE_TYPES[settings.cache_type])
        capabilities = Capabilities(
            sequences_max=settings.sequences,
            context_per_sequence=model.context_per_sequence,
            prefill_unit=settings.prefill_chunk,
            partial_clear=model.cache.unlimited,
            prefix_copy=model.cache.unlimited,
            save_restore=True,
            batch_invariant=self._keeps_bits(),
            cache_bytes_per_token=token_bytes,
            state_bytes=info.state_bytes,
            prefill_token_seconds=self._speed[0],
            decode_step_seconds=self._speed[1],
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
        return LoadReport(capabilities, settings.described(), memory, self._estimate.total)
