"""Legacy GGML files: a model of its own, weights included, for each slot.

Their loaders read weights into memory, next to the cache, and have no way to
share them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from llm_serving_engine.backends.backend import LoadError, Progress
from llm_serving_engine.backends.ctransformers.library import library
from llm_serving_engine.backends.ctransformers.model import ComputeError
from llm_serving_engine.backends.ctransformers.settings import Settings
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.sampler import Logits

_STDERR = 2


class GGMLModel:
    """See `SlotModel`."""

    def __init__(self, info: ModelInfo, settings: Settings, progress: Progress) -> None:
        """Load a file as often as there are slots. Raises LoadError."""
        self._library = library()
        self._info = info
        self._settings = settings
        self.threads = settings.threads
        self._models: list[Any] = []
        for slot in range(settings.sequences):
            self._models.append(self._load())
            self._make_room(slot)
            progress((slot + 1) / settings.sequences)

    def compute(self, slot: int, position: int, tokens: tuple[int, ...]) -> Logits:
        """See `SlotModel.compute`."""
        model, count = self._models[slot], len(tokens)
        array = (ctypes.c_int * count)(*tokens)
        if not self._library.ctransformers_llm_batch_eval(
            model, array, count, position, count, self.threads
        ):
            raise ComputeError("ctransformers failed to evaluate tokens")
        size = self._library.ctransformers_llm_logits_size(model)
        logits = np.ctypeslib.as_array(self._library.ctransformers_llm_logits_data(model), (size,))
        return logits[size - self._info.vocabulary_size :]

    def close(self) -> None:
        """Free all models."""
        for model in self._models:
            self._library.ctransformers_llm_delete(model)

    def _load(self) -> Any:
        from ctransformers.llm import Config

        config = Config(context_length=self._settings.context_per_sequence).to_struct()
        path, architecture = str(self._info.path), self._info.architecture
        with _stderr() as written:
            model = self._library.ctransformers_llm_create(
                path.encode(), architecture.encode(), config
            )
        if not model:
            lines = b"".join(written).decode("utf-8", "replace").splitlines()
            reason = lines[0] if lines else "no reason given"
            raise LoadError(f"{path} cannot be loaded by ctransformers: {reason}")
        return model

    def _make_room(self, slot: int) -> None:
        """Let the library's buffer grow to what the longest context needs.

        It takes the memory of the first evaluation, divided by its tokens, for
        what every token takes, multiplies it by the tokens of an evaluation,
        and dies where that was not enough. But memory grows with the tokens
        before, too: so the first evaluation is of one token with so many before
        it (of no meaning) that a whole chunk at the end of the context fits.
        """
        info, settings = self._info, self._settings
        context, chunk = info.training_context, settings.prefill_chunk
        before = 2 * (context / chunk + context * info.heads / info.embedding_length)
        before = min(int(before), settings.context_per_sequence - 1)
        self.compute(slot, before, (0,))
        self.compute(slot, 0, (0,) * chunk)


@contextlib.contextmanager
def _stderr() -> Iterator[list[bytes]]:
    """What is written to the process's stderr, which is where the loaders say what is wrong."""
    written: list[bytes] = []
    kept = os.dup(_STDERR)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), _STDERR)
        try:
            yield written
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
            file.seek(0)
            written.append(file.read())
