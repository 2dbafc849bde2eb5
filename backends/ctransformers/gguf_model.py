"""GGUF files: weights mapped once, and a context for each slot."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from llm_serving_engine.backends.backend import LoadError, Progress
from llm_serving_engine.backends.ctransformers.library import (
    LOG_ERROR,
    ContextParams,
    LogCallback,
    ProgressCallback,
    library,
)
from llm_serving_engine.backends.ctransformers.model import ComputeError
from llm_serving_engine.backends.ctransformers.settings import Settings
from llm_serving_engine.backends.models.gguf_file import GGUFFile
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.sampler import Logits
from llm_serving_engine.backends.text.falcon_tokenizer import is_early_falcon

# What the library's llama.cpp knows of. It dies of some files that it does not
# know, and gives no reason for others: so they are told apart before it sees them.
_VOCABULARIES = {"llama": "llama", "falcon": "gpt2"}
_TENSOR_TYPES = frozenset(
    "F32 F16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K".split()  # noqa: SIM905
)


def check_file(file: GGUFFile) -> None:
    """Refuse what the library cannot run. Raises LoadError."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in _VOCABULARIES:
        known = " and ".join(_VOCABULARIES)
        raise _refusal(file, f"the architecture {architecture!r}: it knows {known}")
    vocabulary = file.metadata.get("tokenizer.ggml.model")
    if vocabulary != _VOCABULARIES[architecture]:
        raise _refusal(file, f"a {architecture} model with a vocabulary of type {vocabulary!r}")
    if "output.weight" not in {tensor.name for tensor in file.tensors}:
        raise _refusal(file, "a model whose output shares the weights of its embeddings")
    if architecture == "falcon" and not is_early_falcon(file):
        raise _refusal(file, "a falcon model whose vocabulary is not of the files of 2023")
    unknown = {tensor.type.name for tensor in file.tensors} - _TENSOR_TYPES
    if unknown:
        raise _refusal(file, f"weights stored as {', '.join(sorted(unknown))}")


def _refusal(file: GGUFFile, what: str) -> LoadError:
    return LoadError(f"{file.path}: ctransformers cannot run {what}; use the backend llama.cpp")


class GGUFModel:
    """See `SlotModel`."""

    def __init__(self, info: ModelInfo, settings: Settings, progress: Progress) -> None:
        """Load a file that `check_file` has passed. Raises LoadError."""
        self._library = library()
        self.threads = settings.threads
        self._errors: list[str] = []
        # Kept, as the library keeps it.
        self._log = LogCallback(self._note)
        self._library.llama_log_set(self._log, None)
        params, path = self._params(settings, progress), info.path
        self._model = self._library.llama_load_model_from_file(str(path).encode(), params)
        if not self._model:
            reason = self._errors[0] if self._errors else "no reason given"
            raise LoadError(f"{path} cannot be loaded by ctransformers: {reason}")
        self._vocabulary_size: int = self._library.llama_model_n_vocab(self._model)
        self._contexts = [self._context(params) for _ in range(settings.sequences)]

    def compute(self, slot: int, position: int, tokens: tuple[int, ...]) -> Logits:
        """See `SlotModel.compute`."""
        context = self._contexts[slot]
        array = (ctypes.c_int * len(tokens))(*tokens)
        if self._library.llama_eval(context, array, len(tokens), position, self.threads):
            raise ComputeError("llama_eval failed")
        logits = self._library.llama_get_logits(context)
        return np.ctypeslib.as_array(logits, (self._vocabulary_size,))

    def close(self) -> None:
        """Free contexts and weights."""
        for context in self._contexts:
            self._library.llama_free(context)
        self._library.llama_free_model(self._model)

    def _params(self, settings: Settings, progress: Progress) -> ContextParams:
        params: ContextParams = self._library.llama_context_default_params()
        params.n_ctx = settings.context_per_sequence
        params.n_batch = settings.prefill_chunk
        params.progress_callback = ProgressCallback(lambda fraction, data: progress(fraction))
        return params

    def _context(self, params: ContextParams) -> Any:
        context = self._library.llama_new_context_with_model(self._model, params)
        if not context:
            raise LoadError("ctransformers cannot make a context: there is too little memory")
        return context

    def _note(self, level: int, text: bytes, _user_data: object) -> None:
        if level == LOG_ERROR and text.strip():
            line = text.decode("utf-8", "replace").strip().partition("\n")[0]
            self._errors.append(line.removeprefix("error loading model: "))
