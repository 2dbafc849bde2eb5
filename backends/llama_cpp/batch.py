"""A llama_batch whose arrays are NumPy's, so that filling it is a few assignments."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_serving_engine.backends.llama_cpp.part import Part


class Batch:
    """Room for a fixed number of tokens, filled anew for each call."""

    def __init__(self, library: Any, capacity: int) -> None:
        self._tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._slots = np.zeros(capacity, np.int32)
        self._outputs = np.zeros(capacity, np.int8)
        self._slot_counts = np.ones(capacity, np.int32)
        # Each token names its slots by a pointer; all point into `_slots`.
        self._slot_pointers = self._slots.ctypes.data + np.arange(capacity) * self._slots.itemsize
        self.structure = library.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, library.llama_token),
            embd=None,
            pos=_pointer(self._positions, library.llama_pos),
            n_seq_id=_pointer(self._slot_counts, ctypes.c_int32),
            seq_id=_pointer(self._slot_pointers, ctypes.POINTER(library.llama_seq_id)),
            logits=_pointer(self._outputs, ctypes.c_int8),
        )

    def fill(self, parts: Sequence[Part]) -> None:
        """Hold the tokens of parts, in their order, with logits where they are wanted."""
        if all(part.length == 1 for part in parts):
            self._fill_rows(parts)
        else:
            self._fill_chunks(parts)

    def _fill_rows(self, rows: Sequence[Part]) -> None:
        # The path of every streamed token: one assignment for each array.
        count = len(rows)
        slots, positions, tokens, wanted, _ = zip(*rows, strict=True)
        self._slots[:count], self._positions[:count], self._outputs[:count] = (
            slots,
            positions,
            wanted,
        )
        self._tokens[:count] = [token for (token,) in tokens]
        self.structure.n_tokens = count

    def _fill_chunks(self, parts: Sequence[Part]) -> None:
        end = 0
        for part in parts:
            start, stop = end, end + len(part.tokens)
            end = stop + part.padding
            self._tokens[start:stop] = part.tokens
            self._tokens[stop:end] = 0
            self._positions[start:end] = np.arange(part.start, part.start + end - start)
            self._slots[start:end] = part.slot
            self._outputs[start:end] = 0
            self._outputs[stop - 1] = part.wanted
        self.structure.n_tokens = end


def _pointer(array: np.ndarray[Any, Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
