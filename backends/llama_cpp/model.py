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
from llm_serving_engine.backends.llama_cpp.cache_trial import CacheTraits, try_cache
from llm_serving_engine.backends.llama_cpp.kernels import Kernels
from llm_serving_engine.backends.llama_cpp.part import Part
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
    """Weights plus a context of partitioned sequences.

    Attributes:
        settings: Of the context.
        threads: That compute now; never more than in the settings.
    """

    def __init__(
        self,
        path: str,
        settings: Settings,
        progress: Callable[[float], None],
        threads: Callable[[], int] | None = None,
    ) -> None:
        """Load weights, and make a context.

        Args:
            path: The file.
            settings: Of the context.
            progress: Told the fraction of the weights that is loaded.
            threads: Asked how many are to compute when the weights are loaded; all by default.
        """
        self._library = library()
        self.settings = settings
        with captured_errors() as log:
            self._model = self._load(path, progress)
            if not self._model:
                reason = _error_in(log, "no reason given")
                raise ModelFileError(f"{path} cannot be loaded by llama.cpp: {reason}")
            self._check_kind()
        self.threads = settings.threads if threads is None else threads()
        self._context: Any = None
        # What copies pass through.
        self._copied: SavedCache = (ctypes.c_uint8 * 0)()
        self._make_context()
        if not self._memory:
            raise LoadError(f"{path} keeps no cache of a sequence: it does not generate text")
        vocabulary = self._library.llama_model_get_vocab(self._model)
        self.vocabulary_size: int = self._library.llama_vocab_n_tokens(vocabulary)
        self.cache: CacheTraits = try_cache(self)

    def renew(self, settings: Settings) -> None:
        """Make another context of the same weights; nothing is done for the same settings.

        Args:
            settings: Of the new one, all of whose slots are empty.

        Raises:
            LoadError: llama.cpp cannot make it. There is none then: renew again.
        """
        if settings == self.settings and self._context:
            return
        self.settings = settings
        self._library.llama_free(self._context)
        self._context = None
        self._make_context()

    def _make_context(self) -> None:
        with captured_errors() as log:
            self._context = self._library.llama_init_from_model(self._model, self._context_params())
            if not self._context:
                raise LoadError(_error_in(log, "llama.cpp cannot make a context"))
        self._memory = self._library.llama_get_memory(self._context)
        self.context_per_sequence: int = self._library.llama_n_ctx_seq(self._context)
        self._batch = Batch(self._library, self.settings.rows_max)

    def _load(self, path: str, progress: Callable[[float], None]) -> Any:
        params = self._library.llama_model_default_params()
        params.n_gpu_layers = self.settings.gpu_layers

        def on_progress(fraction: float, _user_data: object) -> bool:
            progress(fraction)
            return True

        params.progress_callback = self._library.llama_progress_callback(on_progress)
        self._library.llama_backend_init()
        with Kernels().loading(self.settings.kernels) as params.use_extra_bufts:
            return self._library.llama_model_load_from_file(os.fsencode(path), params)

    def _check_kind(self) -> None:
        if self._library.llama_model_has_encoder(self._model):
            raise LoadError("the model has an encoder; only decoder-only models are served")
        if not self._library.llama_model_has_decoder(self._model):
            raise LoadError("the model does not generate text")
        if self._library.llama_model_is_diffusion(self._model):
            raise LoadError("the model is a diffusion model, and does not generate token by token")

    def _context_params(self) -> Any:
        settings = self.settings
        params = self._library.llama_context_default_params()
        params.n_ctx = settings.sequences * settings.context_per_sequence
        params.n_seq_max = settings.sequences
        params.n_batch = params.n_ubatch = settings.rows_max
        params.n_outputs_max = settings.sequences
        params.n_threads = params.n_threads_batch = self.threads
        params.type_k = params.type_v = _GGML_TYPES[settings.cache_type]
        params.flash_attn_type = (
            _FLASH_ATTENTION_AUTO if settings.flash_attention else _FLASH_ATTENTION_OFF
        )
        # A partition of the cache for each sequence: in a shared one, every row
        # would look at the cells of all.
        params.kv_unified = False
        # Layers with a sliding window keep all cells: else no prefix could be used again.
        params.swa_full = True
        params.no_perf = True
        return params

    # What the model is

    @property
    def keeps_state(self) -> bool:
        """Whether layers fold the tokens of a sequence into a state of fixed size."""
        return bool(
            self._library.llama_model_is_recurrent(self._model)
            or self._library.llama_model_is_hybrid(self._model)
        )

    @property
    def windowed(self) -> bool:
        """Whether layers have a sliding window: what is saved lacks the tokens outside of it."""
        return bool(self._library.llama_model_n_swa(self._model))

    @property
    def rollback_max(self) -> int:
        """Tokens that the context can take back of a folded state."""
        return int(self._library.llama_n_rs_seq(self._context))

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors."""
        return int(self._library.llama_model_size(self._model))

    # What it does

    def decode(self, parts: Sequence[Part]) -> npt.NDArray[np.float32]:
        """Compute parts of different slots, in ascending order of slots.

        Fillers and padding stay in the cache: the caller drops them.

        Returns:
            Logits of shape (parts that want them, vocabulary); valid until the next call.

        Raises:
            DecodeError: There was no room; FatalDecodeError: it is all over.
        """
        self._batch.fill(parts)
        return self._decode(sum(part.wanted for part in parts))

    def _decode(self, outputs: int) -> npt.NDArray[np.float32]:
        code = self._library.llama_decode(self._context, self._batch.structure)
        if code == _NO_ROOM:
            raise DecodeError("the cache is full")
        if code != 0:
            raise FatalDecodeError(f"llama_decode returned {code}")
        if outputs == 0:
            return np.empty((0, self.vocabulary_size), np.float32)
        pointer = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, (outputs, self.vocabulary_size))

    def use_threads(self, count: int) -> None:
        """Compute with so many threads from now on; the bits stay, but for a long row alone."""
        self.threads = count
        self._library.llama_set_n_threads(self._context, count, count)

    # What it does with the cache

    def clear(self, slot: int) -> None:
        """Drop all of a slot's cache. Raises FatalDecodeError where that is refused."""
        if not self._remove(slot, 0):
            raise FatalDecodeError(f"llama.cpp cannot clear slot {slot}")

    def clear_all(self) -> None:
        """Drop the cache of all slots."""
        self._library.llama_memory_clear(self._memory, False)

    def drop_from(self, slot: int, position: int) -> bool:
        """Drop a slot's cache from a position on, and tell whether what is before is whole.

        False leaves the slot with some of its cache: clear it. It is so where layers
        fold tokens into a state, and where a sliding window has lost cells.
        """
        if position == 0:
            self.clear(slot)
            return True
        if position >= self.length(slot):
            return position == self.length(slot)
        if not self._remove(slot, position) or self.length(slot) != position:
            return False
        return self.keeps_state or self._first(slot) == 0

    def drop_fillers(self, slot: int, position: int) -> None:
        """Drop what was computed beside others and means nothing, from a position on.

        Raises:
            FatalDecodeError: It cannot be dropped, and the slot's tokens are not its own.
        """
        if position < self.length(slot):
            self._remove(slot, position)
        # A restored slot may lack tokens outside of a sliding window, with fillers or without.
        if self.length(slot) != position:
            raise FatalDecodeError(f"llama.cpp cannot drop the fillers of slot {slot}")

    def copy(self, source: int, target: int, tokens: int) -> bool:
        """Make the first `tokens` of `source` all of `target`.

        Returns:
            False where that cannot be; `target` is to be cleared then.
        """
        if self.windowed:
            return self._copy_cells(source, target, tokens)
        # For 100 tokens this takes a tenth of the time of `_copy_cells`, for 1,000 two thirds.
        size = self.saved_bytes(source)
        if len(self._copied) < size:
            # Memory is taken as it is written to, and new memory is slow to write to.
            self._copied = (ctypes.c_uint8 * (2 * size))()
        written = self._write(source, self._copied)
        copied = written > 0 and self._read(target, self._copied, written)
        return copied and self.drop_from(target, tokens)

    def _copy_cells(self, source: int, target: int, tokens: int) -> bool:
        """Copy all cells of a slot, used or not: llama.cpp does so within the next call."""
        self.clear(target)
        # In a partitioned cache only whole sequences can be copied.
        self._library.llama_memory_seq_cp(self._memory, source, target, _EVERYTHING, _EVERYTHING)
        return self.drop_from(target, tokens)

    def save(self, slot: int) -> SavedCache:
        """A copy of a slot's cache, in this process's memory.

        Raises:
            DecodeError: llama.cpp cannot save it.
        """
        saved = (ctypes.c_uint8 * self.saved_bytes(slot))()
        if self._write(slot, saved) == 0:
            raise DecodeError("the cache could not be saved")
        return saved

    def restore(self, slot: int, saved: SavedCache) -> bool:
        """Make a saved cache all of a slot; False where it does not fit."""
        return self._read(slot, saved, len(saved))

    def _write(self, slot: int, saved: SavedCache) -> int:
        """Write a slot's cache into memory: its bytes, or 0 where that fails."""
        write = self._library.llama_state_seq_get_data
        return int(write(self._context, saved, len(saved), slot))

    def _read(self, slot: int, saved: SavedCache, size: int) -> bool:
        """Make what was written all of a slot; False where it does not fit."""
        self.clear(slot)
        return bool(self._library.llama_state_seq_set_data(self._context, saved, size, slot))

    def scrub(self) -> None:
        """Zero the cells that hold no sequence.

        A NaN that a dropped sequence left in its cells would reach the next one there:
        the cells are masked or multiplied by zero, and NaN stays NaN.

        Raises:
            FatalDecodeError: The sequences that stay cannot be kept over it.
        """
        slots = [slot for slot in range(self.settings.sequences) if self.length(slot)]
        try:
            held = {slot: self.save(slot) for slot in slots}
        except DecodeError as error:
            raise FatalDecodeError(str(error)) from error
        self._library.llama_memory_clear(self._memory, True)
        for slot, saved in held.items():
            if not self.restore(slot, saved):
                raise FatalDecodeError(f"the cache of slot {slot} could not be restored")

    def saved_bytes(self, slot: int) -> int:
        """Bytes that `save` would take."""
        return int(self._library.llama_state_seq_get_size(self._context, slot))

    def length(self, slot: int) -> int:
        """Tokens in a slot's cache."""
        return int(self._library.llama_memory_seq_pos_max(self._memory, slot)) + 1

    def _first(self, slot: int) -> int:
        """The position of the first token that is in all of a slot's cache."""
        return int(self._library.llama_memory_seq_pos_min(self._memory, slot))

    def _remove(self, slot: int, position: int) -> bool:
        """Remove a slot's cells from a position on."""
        remove = self._library.llama_memory_seq_rm
        return bool(remove(self._memory, slot, position or _EVERYTHING, _EVERYTHING))

    def close(self) -> None:
        """Free context and weights."""
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)


def _error_in(log: Any, otherwise: str) -> str:
    """Return the error in the last lines of llama.cpp's log: the first one names the cause.

    Args:
        log: The lines.
        otherwise: What to return if there are none.
    """
    lines = [line.strip() for line in log if line.strip()]
    causes = [line for line in lines if "error" in line.lower() or "unknown" in line.lower()]
    line = next(iter(causes or lines), otherwise)
    return (line.partition(": ")[2] or line).removeprefix("error loading model: ")
