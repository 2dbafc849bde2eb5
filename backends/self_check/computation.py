"""Computes llama.cpp's logits of a model file."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.llama_library import captured_errors, library
from llm_serving_engine.backends.self_check.tiny_llama import CONTEXT, TOKENS

THREADS_MAX = 2


class ComputationError(Exception):
    """llama.cpp does not load the model, or does not compute it."""


class Computation:
    """A loaded model of `tiny_llama`'s shape. A context manager.

    Args:
        path: The GGUF file.
        repack: Whether weights may be stored anew for the CPU's special kernels
            (AMX, repacked); otherwise the kernels compute with what is in the file.

    Raises:
        ComputationError: The model does not load.
    """

    def __init__(self, path: Path, *, repack: bool) -> None:
        self._library = library()
        self._library.llama_backend_init()
        with captured_errors() as log:
            self._model = self._library.llama_model_load_from_file(
                str(path).encode(), self._model_params(repack)
            )
            self._context = self._model and self._library.llama_init_from_model(
                self._model, self._context_params()
            )
        if not self._context:
            raise ComputationError(f"the model does not load: {'; '.join(log)}")
        self._batch = self._library.llama_batch_init(CONTEXT, 0, 1)

    def __enter__(self) -> Computation:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library.llama_batch_free(self._batch)
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)

    def logits(self, tokens: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """The logits after each token, computed in one call, of shape (tokens, TOKENS).

        Raises:
            ComputationError: The call failed.
        """
        memory = self._library.llama_get_memory(self._context)
        self._library.llama_memory_clear(memory, True)
        batch = self._batch
        batch.n_tokens = len(tokens)
        for position, token in enumerate(tokens.tolist()):
            batch.token[position] = token
            batch.pos[position] = position
            batch.n_seq_id[position] = 1
            batch.seq_id[position][0] = 0
            batch.logits[position] = 1
        code = self._library.llama_decode(self._context, batch)
        if code != 0:
            raise ComputationError(f"llama_decode returned {code}")
        pointer = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (len(tokens), TOKENS)).copy()

    def _model_params(self, repack: bool) -> Any:
        params = self._library.llama_model_default_params()
        # The check is about the CPU: an empty list of devices leaves a GPU out.
        self._no_devices = (ctypes.c_void_p * 1)()
        params.devices = ctypes.cast(self._no_devices, ctypes.c_void_p)
        params.n_gpu_layers = 0
        params.use_extra_bufts = repack
        return params

    def _context_params(self) -> Any:
        params = self._library.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = params.n_outputs_max = CONTEXT
        params.n_seq_max = 1
        params.n_threads = params.n_threads_batch = min(machine.compute_threads(), THREADS_MAX)
        params.offload_kqv = params.op_offload = False
        params.no_perf = True
        return params
