"""Executes steps on ctransformers."""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from llm_serving_engine.backends.backend import (
    BackendConfig,
    LoadError,
    LoadReport,
    Progress,
)
from llm_serving_engine.backends.chunks import split_chunk
from llm_serving_engine.backends.ctransformers.ggml_model import GGMLModel
from llm_serving_engine.backends.ctransformers.gguf_model import GGUFModel, check_file
from llm_serving_engine.backends.ctransformers.model import ComputeError, SlotModel
from llm_serving_engine.backends.ctransformers.settings import Needs, Settings
from llm_serving_engine.backends.models.errors import ModelError
from llm_serving_engine.backends.models.ggml_file import GGMLFile, is_legacy
from llm_serving_engine.backends.models.gguf_file import GGUFFile
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.models.memory import check_fits
from llm_serving_engine.backends.sampler import Logits
from llm_serving_engine.backends.slot_samplers import SlotSamplers
from llm_serving_engine.backends.speed import measured_speed
from llm_serving_engine.backends.text.falcon_tokenizer import FalconTokenizer, is_early_falcon
from llm_serving_engine.backends.text.ggml_tokenizer import GGMLTokenizer
from llm_serving_engine.backends.text.tokenizer import LlamaTokenizer, Tokenizer
from llm_serving_engine.backends.threads import ThreadCount
from llm_serving_engine.scheduler.step import (
    Capabilities,
    ClearSlot,
    PrefillChunk,
    SampledToken,
    SlotFailure,
    Step,
    StepResult,
)


class CTransformersBackend:
    """One model, many sequences, computed one after the other.

    The library has no batches: each prefill chunk and each decode row is a call
    of its own, in a context of its slot's own. So no sequence's bits depend on
    the others', and none gets cheaper by their company.
    """

    def __init__(self, path: str, config: BackendConfig, progress: Progress) -> None:
        try:
            self._model, self._settings, needs = _load(Path(path), config, progress)
        except ModelError as error:
            raise LoadError(str(error)) from error
        self._samplers = SlotSamplers(self._settings.sequences)
        self._threads = ThreadCount.of(self._settings.threads, config)
        self._lengths = [0] * self._settings.sequences
        self._failures: dict[int, SlotFailure] = {}
        # What follows computes, and the host wants to see that it goes on.
        progress(1.0)
        self.report = self._make_report(needs, self._warm_up())

    @staticmethod
    def load_tokenizer(path: Path, config: BackendConfig) -> Tokenizer:
        """The vocabulary, without ctransformers: its library can end the process. See registry."""
        if is_legacy(path):
            return GGMLTokenizer(GGMLFile.read(path, config.architecture))
        early_falcon = is_early_falcon(GGUFFile.read(path))
        return FalconTokenizer(path) if early_falcon else LlamaTokenizer(path)

    def execute(self, step: Step) -> StepResult:
        """Do a step's parts in order."""
        started = time.perf_counter()
        self._failures = {}
        if self._threads.begin():
            self._model.threads = self._threads.now
        for operation in step.operations:
            assert isinstance(operation, ClearSlot), f"{operation} is beyond the capabilities"
            self._lengths[operation.slot] = operation.from_position
        for opened in step.opens:
            self._samplers.open(opened)
        sampled = [token for chunk in step.prefills for token in self._prefill(chunk)]
        for row in step.decodes:
            sampled += self._prefill(PrefillChunk(row.slot, row.position, (row.token,), True))
        failures = tuple(self._failures.values())
        self._threads.end()
        seconds = time.perf_counter() - started
        return StepResult(step.number, tuple(sampled), failures, seconds, self._threads.now)

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def _prefill(self, chunk: PrefillChunk) -> list[SampledToken]:
        """Compute a chunk, or a row: a row is a chunk of one token."""
        try:
            logits = self._compute(chunk)
        except ComputeError as error:
            self._fail(SlotFailure(chunk.slot, str(error)))
            return []
        if not chunk.sample:
            return []
        outcome = self._samplers.sample(chunk.slot, logits)
        if isinstance(outcome, SampledToken):
            return [outcome]
        self._fail(outcome)
        return []

    def _fail(self, failure: SlotFailure) -> None:
        self._failures[failure.slot] = failure
        self._lengths[failure.slot] = 0

    def _compute(self, chunk: PrefillChunk) -> Logits:
        """Compute a chunk, cut at fixed places. Raises ComputeError."""
        end = chunk.position + len(chunk.tokens)
        # The library takes any position, and computes nonsense.
        if chunk.position != self._lengths[chunk.slot]:
            raise ComputeError(f"the slot holds {self._lengths[chunk.slot]} tokens")
        if end > self._settings.context_per_sequence:
            raise ComputeError("there is no room in the cache")
        prompt = len(chunk.tokens) - chunk.replayed
        known = chunk._replace(tokens=chunk.tokens[:prompt], replayed=0)
        for position, tokens, _ in split_chunk(known, self._settings.prefill_chunk):
            logits = self._model.compute(chunk.slot, position, tokens)
        # One by one, as it was decoded: so its bits are the same.
        for position, token in enumerate(chunk.tokens[prompt:], chunk.position + prompt):
            logits = self._model.compute(chunk.slot, position, (token,))
        self._lengths[chunk.slot] = end
        return logits

    def _warm_up(self) -> tuple[float, float]:
        """Touch the weights and the buffers, so that the first request is like any other.

        Returns:
            Seconds for a prompt token, and for a step of one decode row.
        """
        length = min(self._settings.prefill_chunk, self._settings.context_per_sequence // 2) or 1
        chunk = (0,) * length
        self._model.compute(0, 0, chunk)
        return measured_speed(
            length,
            lambda: self._model.compute(0, 0, chunk),
            lambda trial: self._model.compute(0, length - 1, (0,)),
        )

    def _make_report(self, needs: Needs, speed: tuple[float, float]) -> LoadReport:
        settings = self._settings
        capabilities = Capabilities(
            sequences_max=settings.sequences,
            context_per_sequence=settings.context_per_sequence,
            prefill_unit=settings.prefill_chunk,
            prefix_copy=False,
            batch_invariant=True,
            cache_bytes_per_token=needs.token_bytes,
            prefill_token_seconds=speed[0],
            decode_step_seconds=speed[1],
        )
        estimate = needs.memory(settings.sequences, settings.context_per_sequence)
        resident = psutil.Process().memory_info().rss
        memory = {
            "weights": estimate.weights,
            "cache": estimate.cache,
            "buffers": max(resident - estimate.weights - estimate.cache, 0),
        }
        return LoadReport(capabilities, settings.described(), memory)


def _load(
    path: Path, config: BackendConfig, progress: Progress
) -> tuple[SlotModel, Settings, Needs]:
    """Load a file of either kind. Raises ModelError or LoadError."""
    legacy = GGMLFile.read(path, config.architecture) if is_legacy(path) else None
    if legacy is not None:
        info, layout = legacy.info, legacy.layout
        token_bytes = info.cache_bytes_per_token(layout.cache_bytes)
    else:
        file, layout = GGUFFile.read(path), None
        info = ModelInfo.of(file)
        check_file(file)
        token_bytes = info.cache_bytes_per_token()
    needs = Needs(
        training_context=info.training_context,
        token_bytes=token_bytes,
        weights_bytes=info.weights_bytes,
        copied=legacy is not None,
        fixed_context=layout is not None and layout.fixed_context,
    )
    settings = Settings.choose(config, needs)
    estimate = needs.memory(settings.sequences, settings.context_per_sequence)
    check_fits(estimate, config.memory_bytes_max)
    kind = GGMLModel if legacy is not None else GGUFModel
    return kind(info, settings, progress), settings, needs
