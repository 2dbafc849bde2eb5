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
from llm_serving_engine.backends.ctransformers.ggml_model import GGMLModel
from llm_serving_engine.backends.ctransformers.gguf_model import GGUFModel, check_file
from llm_serving_engine.backends.ctransformers.model import ComputeError, SlotModel
from llm_serving_engine.backends.ctransformers.settings import Needs, Settings
from llm_serving_engine.backends.key_samplers import KeySamplers
from llm_serving_engine.backends.memory_estimate import check_fits
from llm_serving_engine.backends.models.errors import ModelError
from llm_serving_engine.backends.models.ggml_file import GGMLFile, is_legacy
from llm_serving_engine.backends.models.gguf_file import GGUFFile
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.sampler import Logits
from llm_serving_engine.backends.text.falcon_tokenizer import FalconTokenizer, is_early_falcon
from llm_serving_engine.backends.text.ggml_tokenizer import GGMLTokenizer
from llm_serving_engine.backends.text.tokenizer import LlamaTokenizer, Tokenizer
from llm_serving_engine.backends.threads import ThreadCount
from llm_serving_engine.scheduler.step import (
    Capabilities,
    Close,
    Open,
    Operation,
    Run,
    RunResult,
    Shape,
    Step,
    StepResult,
    shape_of,
)


class CTransformersBackend:
    """One model, many sequences, computed one after the other.

    The library has no batches: each run is a call of its own, in its slot's own
    context. So no sequence's bits depend on the others', and none gets cheaper by
    their company.
    """

    def __init__(self, path: str, config: BackendConfig, progress: Progress) -> None:
        try:
            self._model, self._settings, needs = _load(Path(path), config, progress)
        except ModelError as error:
            raise LoadError(str(error)) from error
        self._samplers = KeySamplers()
        self._prompts: dict[int, int] = {}
        self._threads = ThreadCount.of(self._settings.threads, config)
        self._lengths = [0] * self._settings.sequences
        # What follows computes, and the host wants to see that it goes on.
        progress(1.0)
        self.report = self._make_report(needs, self._timed_calls())

    @staticmethod
    def load_tokenizer(path: Path, config: BackendConfig) -> Tokenizer:
        """The vocabulary, without ctransformers: its library can end the process. See registry."""
        if is_legacy(path):
            return GGMLTokenizer(GGMLFile.read(path, config.architecture))
        early_falcon = is_early_falcon(GGUFFile.read(path))
        return FalconTokenizer(path) if early_falcon else LlamaTokenizer(path)

    def execute(self, step: Step) -> StepResult:
        """Do a step: its operations, then its runs one after the other."""
        started = time.perf_counter()
        if self._threads.begin():
            self._model.threads = self._threads.now
        for operation in step.operations:
            self._do(operation)
        runs = tuple(map(self._run, step.runs))
        self._threads.end()
        return StepResult(
            step.number,
            runs=runs,
            seconds=time.perf_counter() - started,
            # Each run goes through all of the weights.
            shape=step.shape._replace(groups=len(step.runs)),
            threads=self._threads.now,
        )

    def close(self) -> None:
        """Free the model."""
        self._model.close()

    def _do(self, operation: Operation) -> None:
        if isinstance(operation, Open):
            self._samplers.open(operation)
            self._prompts[operation.key] = operation.prompt_tokens
        elif isinstance(operation, Close):
            self._samplers.close(operation.key)
            self._prompts.pop(operation.key, None)
        else:
            raise ValueError(f"{operation} is beyond the capabilities")

    def _run(self, run: Run) -> RunResult:
        # The library takes any position, and computes nonsense.
        if self._lengths[run.slot] < run.start:
            return RunResult(run.key, 0)
        try:
            result = self._samplers.result(run, self._compute(run))
        except ComputeError as error:
            result = RunResult(run.key, 0, error=str(error))
        self._lengths[run.slot] = 0 if result.error else run.end
        return result

    def _compute(self, run: Run) -> Logits:
        """Compute a run. Raises ComputeError."""
        if run.end > self._settings.context_per_sequence:
            raise ComputeError("the cache is full")
        prompt = max(self._prompts.get(run.key, run.end) - run.start, 0)
        known = run.tokens[:prompt]
        if known:
            logits = self._model.compute(run.slot, run.start, known)
        # Output that is computed again: one by one, as it was decoded, so its bits are the same.
        for position, token in enumerate(run.tokens[prompt:], run.start + len(known)):
            logits = self._model.compute(run.slot, position, (token,))
        return logits

    def _timed_calls(self) -> tuple[tuple[Shape, float], ...]:
        """Time a chunk and a row, and touch weights and buffers by it."""
        length = min(self._settings.prefill_chunk, self._settings.context_per_sequence // 2) or 1

        def seconds(start: int, tokens: int) -> float:
            started = time.perf_counter()
            self._model.compute(0, start, (0,) * tokens)
            return time.perf_counter() - started

        seconds(0, length)
        calls = ((0, length), (length - 1, 1), (length - 1, 1))
        return tuple((shape_of([(0, *call)]), seconds(*call)) for call in calls)

    def _make_report(self, needs: Needs, speeds: tuple[tuple[Shape, float], ...]) -> LoadReport:
        settings = self._settings
        capabilities = Capabilities(
            slots=settings.sequences,
            context=settings.context_per_sequence,
            chunk=settings.prefill_chunk,
            call_tokens_max=max(settings.prefill_chunk, settings.sequences),
            copy=False,
            batch_invariant=True,
            token_bytes=needs.token_bytes,
            speeds=speeds,
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
