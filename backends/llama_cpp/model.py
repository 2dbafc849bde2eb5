"""A model's weights and context in llama.cpp: made once, freed once."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_serving_engine.backends.backend import LoadError
from llm_serving_engine.backends.llama_cpp.batch import Batch
from llm_serving_engine.backends.llama_cpp.joint import Limits, Part
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.llama_library import captured_errors, library
from llm_serving_engine.backends.models.errors import ModelFileError

_GGML_TYPES = {"f16": 1, "q8_0": 8}
_FLASH_ATTENTION_AUTO = -1
_FLASH_ATTENTION_OFF = 0
_NO_ROOM = 1
_EVERYTHING = -1


SavedCache = ctypes.Array[ctypes.c_uint8]
"""The bytes of a slot's cache, in llama.cpp's own format."""


class DecodeError(Exception):
    """A call to llama_decode was refused; the cache is as it was before."""


class FatalDecodeError(Exception):
    """llama_decode failed and left its state undefined: the process must end."""


class LlamaModel:
    """Weights plus a context of partitioned sequences."""

    def __init__(self, path: str, settings: Settings, progress: Callable[[float], None]) -> None:
        self._library = library()
        self.settings = settings
        with captured_errors() as log:
            self._model = self._load(path, progress)
            if not self._model:
                reason = _last_words(log, "no reason given")
                raise ModelFileError(f"{path} cannot be loaded by llama.cpp: {reason}")
            self._check_kind()
            self._context = self._library.llama_init_from_model(self._model, self._context_params())
            if not self._context:
                raise LoadError(_last_words(log, "llama.cpp cannot make a context"))
        self._memory = self._library.llama_get_memory(self._context)
        vocabulary = self._library.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = self._library.llama_vocab_n_tokens(vocabulary)
        self.context_per_sequence: int = self._library.llama_n_ctx_seq(self._context)
        self._batch = Batch(self._library, settings.rows_max)

    def _load(self, path: str, progress: Callable[[float], None]) -> Any:
        params = self._library.llama_model_default_params()
        params.n_gpu_layers = self.settings.gpu_layers

        def on_progress(fraction: float, _user_data: object) -> bool:
            progress(fraction)
            return True

        params.progress_callback = self._library.llama_progress_callback(on_progress)
        self._library.llama_backend_init()
        return self._library.llama_model_load_from_file(os.fsencode(path), params)

    def _check_kind(self) -> None:
        if self._library.llama_model_has_encoder(self._model):
            raise LoadError("the model has an encoder; only decoder-only models are served")
        if not self._library.llama_model_has_decoder(self._model):
            raise LoadError("the model does not generate text")

    def _context_params(self) -> Any:
        settings = self.settings
        params = self._library.llama_context_default_params()
        params.n_ctx = settings.sequences * settings.context_per_sequence
        params.n_seq_max = settings.sequences
        params.n_batch = params.n_ubatch = settings.rows_max
        params.n_outputs_max = settings.sequences
        params.n_threads = params.n_threads_batch = settings.threads
        params.type_k = params.type_v = _GGML_TYPES[settings.cache_type]
        params.flash_attn_type = (
            _FLASH_ATTENTION_AUTO if settings.flash_attention else _FLASH_ATTENTION_OFF
        )
        # A partition of the cache for each sequence: in a shared one, every row
        # would look at the cells of all.
        params.kv_unified = False
        params.no_perf = True
        return params

    # What the model is

    @property
    def partial_clear(self) -> bool:
        """Whether a part of a sequence can be dropped: not where it is folded into a state."""
        model = self._model
        return not (
            self._library.llama_model_is_recurrent(model)
            or self._library.llama_model_is_hybrid(model)
        )

    @property
    def limits(self) -> Limits:
        """Of a call with parts of several sequences."""
        return Limits(self.settings.rows_max, self.context_per_sequence, self.partial_clear)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors."""
        return int(self._library.llama_model_size(self._model))

    # What it does

    def decode_parts(self, parts: Sequence[Part]) -> npt.NDArray[np.float32]:
        """Compute runs of sequences, one each; at most `rows_max` tokens in all.

        What they are padded with is dropped again.

        Returns:
            Logits of shape (parts with `sample`, vocabulary); valid until the next call.

        Raises:
            DecodeError: There was no room; FatalDecodeError: it is all over.
        """
        self._batch.fill_parts(parts)
        logits = self._decode(sum(part.sample for part in parts))
        for part in parts:
            if part.padding:
                self.clear(part.slot, part.position + len(part.tokens))
        return logits

    def decode_chunk(
        self, slot: int, position: int, tokens: tuple[int, ...], sample: bool
    ) -> npt.NDArray[np.float32]:
        """Compute a run of one sequence; see `decode_parts`."""
        return self.decode_parts((Part(slot, position, tokens, sample),))

    def decode_rows(
        self, rows: tuple[Any, ...], wanted: Sequence[bool] = ()
    ) -> npt.NDArray[np.float32]:
        """Compute one token each of many sequences; at most `sequences` rows.

        Args:
            rows: In ascending order of slots.
            wanted: Which of them are to have logits; empty for all.

        Returns and raises as `decode_parts`; the shape is (rows wanted, vocabulary).
        """
        self._batch.fill_rows(rows, wanted)
        return self._decode(sum(wanted) if wanted else len(rows))

    def _decode(self, outputs: int) -> npt.NDArray[np.float32]:
        code = self._library.llama_decode(self._context, self._batch.structure)
        if code == _NO_ROOM:
            raise DecodeError("there is no room in the cache")
        if code != 0:
            raise FatalDecodeError(f"llama_decode returned {code}")
        if outputs == 0:
            return np.empty((0, self.vocabulary_size), np.float32)
        pointer = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (outputs, self.vocabulary_size))

    def use_threads(self, count: int) -> None:
        """Compute with so many threads from now on; the bits stay, but for a long row alone."""
        self._library.llama_set_n_threads(self._context, count, count)

    def clear(self, slot: int, from_position: int = 0) -> bool:
        """Drop a slot's cache from a position on; False where the model cannot drop a part."""
        removed = self._library.llama_memory_seq_rm(
            self._memory, slot, from_position or _EVERYTHING, _EVERYTHING
        )
        return bool(removed)

    def copy(self, source: int, target: int, tokens: int) -> bool:
        """Make the first `tokens` of `source` all of `target`; False where that cannot be."""
        self.clear(target)
        # In a partitioned cache only whole sequences can be copied.
        self._library.llama_memory_seq_cp(self._memory, source, target, _EVERYTHING, _EVERYTHING)
        return self.clear(target, tokens)

    def save(self, slot: int) -> SavedCache:
        """A copy of a slot's cache, in this process's memory."""
        size = self._library.llama_state_seq_get_size(self._context, slot)
        saved = (ctypes.c_uint8 * size)()
        written = self._library.llama_state_seq_get_data(self._context, saved, size, slot)
        if written == 0:
            raise DecodeError("the cache could not be saved")
        return saved  # type: ignore[no-any-return]

    def restore(self, slot: int, saved: SavedCache) -> bool:
        """Make a saved cache all of a slot; False where it does not fit."""
        self.clear(slot)
        read = self._library.llama_state_seq_set_data(self._context, saved, len(saved), slot)
        return bool(read)

    def length(self, slot: int) -> int:
        """Tokens in a slot's cache."""
        return int(self._library.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def close(self) -> None:
        """Free context and weights."""
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)


def _last_words(log: Any, otherwise: str) -> str:
    """The most telling of llama.cpp's last lines: the first of its errors names the cause."""
    lines = [line.strip() for line in log if line.strip()]
    causes = [line for line in lines if "error" in line.lower() or "unknown" in line.lower()]
    line = next(iter(causes or lines), otherwise)
    return (line.partition(": ")[2] or line).removeprefix("error loading model: ")
