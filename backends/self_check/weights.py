"""Random weights in one of ggml's types, beside the numbers that they stand for."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llm_serving_engine.backends.llama_library import ggml_of, library

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class WeightType:
    """One of ggml's types.

    Attributes:
        number: Its number in ggml and in GGUF files.
        block: Weights that are stored together.
        bytes: Bytes of a block.
        decoder: The name of ggml's plain function that reads it.
        tolerance: How far right logits are from the reference at most: the root mean square
            of the differences by that of the logits. About twice what was measured; the
            kernels round their input to 8 bits, or to the weights' own 16.
    """

    number: int
    block: int
    bytes: int
    decoder: str
    tolerance: float


WEIGHT_TYPES = {
    "F32": WeightType(0, 1, 4, "", 0.002),
    "Q4_0": WeightType(2, 32, 18, "dequantize_row_q4_0", 0.02),
    "Q4_1": WeightType(3, 32, 20, "dequantize_row_q4_1", 0.02),
    "Q8_0": WeightType(8, 32, 34, "dequantize_row_q8_0", 0.02),
    "Q4_K": WeightType(12, 256, 144, "dequantize_row_q4_K", 0.03),
    "Q6_K": WeightType(14, 256, 210, "dequantize_row_q6_K", 0.03),
    "IQ4_NL": WeightType(20, 32, 18, "dequantize_row_iq4_nl", 0.02),
    "F16": WeightType(1, 1, 2, "", 0.01),
    "BF16": WeightType(30, 1, 2, "", 0.01),
}
CHECKED_TYPES = tuple(name for name in WEIGHT_TYPES if name != "F32")
"""The types that the CPU backend repacks, or has special kernels for."""


@dataclass(frozen=True)
class Matrix:
    """A matrix of weights.

    Attributes:
        type: How it is stored.
        stored: Its bytes, row by row.
        values: What they stand for, of shape (rows, columns).
    """

    type: WeightType
    stored: bytes
    values: Floats


def encode(values: Floats, type_: WeightType) -> Matrix:
    """Store values, of shape (rows, columns), in a type; by ggml's plain code."""
    rows, columns = values.shape
    if type_.number == WEIGHT_TYPES["F32"].number:
        return Matrix(type_, values.tobytes(), values)
    stored = np.zeros(rows * columns // type_.block * type_.bytes, np.uint8)
    source = np.ascontiguousarray(values)
    _base().ggml_quantize_chunk(
        type_.number, source.ctypes.data, stored.ctypes.data, 0, rows, columns, None
    )
    return decode(stored.tobytes(), rows, columns, type_)


def decode(stored: bytes, rows: int, columns: int, type_: WeightType) -> Matrix:
    """Read a matrix from its bytes; by NumPy, or by ggml's plain code."""
    if type_.number == WEIGHT_TYPES["F16"].number:
        values = np.frombuffer(stored, np.float16).astype(np.float32)
    elif type_.number == WEIGHT_TYPES["BF16"].number:
        values = (np.frombuffer(stored, np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.empty(rows * columns, np.float32)
        function = getattr(_base(), type_.decoder)
        function.argtypes = (ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64)
        function.restype = None
        function(stored, values.ctypes.data, values.size)
    return Matrix(type_, stored, values.reshape(rows, columns))


def _base() -> Any:
    """The functions of ggml; those used here are compiled for any CPU. Raises LibraryMissing."""
    ggml = ggml_of(library())
    function = ggml.ggml_quantize_chunk
    function.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    )
    function.restype = ctypes.c_size_t
    return ggml
