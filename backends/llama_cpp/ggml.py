"""ggml's C API, as far as kernels are chosen and measured: devices, buffer types, one matrix.

llama-cpp-python declares llama.cpp's functions only. ggml's are found through
llama.cpp's own library: a second copy of ggml would have devices of its own.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NewType

from llm_serving_engine.backends.llama_library import ggml_of, library

Pointer = ctypes.c_void_p
Address = NewType("Address", int)
"""What a pointer points to; never 0."""

_CPU = 0  # GGML_BACKEND_DEVICE_TYPE_CPU
_WEIGHTS = 1  # GGML_BACKEND_BUFFER_USAGE_WEIGHTS
# The place of `buffer` in a ggml_tensor, after its type.
_TENSOR_BUFFER_OFFSET = 8

_Pointers = ctypes.POINTER(Pointer)


class _InitParams(ctypes.Structure):
    _fields_ = (
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", Pointer),
        ("no_alloc", ctypes.c_bool),
    )


_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "ggml_backend_dev_by_type": (Pointer, ctypes.c_int),
    "ggml_backend_dev_backend_reg": (Pointer, Pointer),
    "ggml_backend_dev_buffer_type": (Pointer, Pointer),
    "ggml_backend_dev_init": (Pointer, Pointer, ctypes.c_char_p),
    "ggml_backend_dev_supports_op": (ctypes.c_bool, Pointer, Pointer),
    "ggml_backend_reg_get_proc_address": (Pointer, Pointer, ctypes.c_char_p),
    "ggml_backend_buft_name": (ctypes.c_char_p, Pointer),
    "ggml_backend_buft_alloc_buffer": (Pointer, Pointer, ctypes.c_size_t),
    "ggml_backend_buffer_free": (None, Pointer),
    "ggml_backend_buffer_set_usage": (None, Pointer, ctypes.c_int),
    "ggml_backend_alloc_ctx_tensors_from_buft": (Pointer, Pointer, Pointer),
    "ggml_backend_free": (None, Pointer),
    "ggml_backend_graph_compute": (ctypes.c_int, Pointer, Pointer),
    "ggml_backend_tensor_set": (None, Pointer, Pointer, ctypes.c_size_t, ctypes.c_size_t),
    "ggml_backend_tensor_get": (None, Pointer, Pointer, ctypes.c_size_t, ctypes.c_size_t),
    "ggml_init": (Pointer, _InitParams),
    "ggml_free": (None, Pointer),
    "ggml_nbytes": (ctypes.c_size_t, Pointer),
    "ggml_new_tensor_2d": (Pointer, Pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64),
    "ggml_mul_mat": (Pointer, Pointer, Pointer, Pointer),
    "ggml_new_graph": (Pointer, Pointer),
    "ggml_build_forward_expand": (None, Pointer, Pointer),
    "ggml_quantize_chunk": (
        ctypes.c_size_t, ctypes.c_int, Pointer, Pointer,
        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, Pointer,
    ),
}  # fmt: skip


@functools.cache
def function(name: str) -> Any:
    """One of ggml's functions, with its types."""
    found = getattr(ggml_of(library()), name)
    found.restype, *found.argtypes = _SIGNATURES[name]
    return found


@functools.cache
def cpu_device() -> Address | None:
    """The processor as a device; None where the library has no kernels for it."""
    library().llama_backend_init()
    device: int | None = function("ggml_backend_dev_by_type")(_CPU)
    return Address(device) if device else None


def plain_buffer_type(device: Address) -> Address:
    """The buffer type that leaves weights as they are in the file."""
    return Address(function("ggml_backend_dev_buffer_type")(device))


def extra_buffer_types(device: Address) -> Any:
    """Ggml's own list of the buffer types that reorder weights for faster kernels.

    Returns:
        A C array of pointers that ends with a null pointer, the preferred type
        first. llama.cpp reads it whenever it loads a model.
    """
    found = _procedure(device, b"ggml_backend_dev_get_extra_bufts")
    if not found:
        return (Pointer * 1)()
    return ctypes.CFUNCTYPE(_Pointers, Pointer)(found)(device)


def listed(array: Any) -> Iterator[Address]:
    """The entries of such an array."""
    index = 0
    while array[index]:
        yield Address(array[index])
        index += 1


def buffer_type_name(buffer_type: Address) -> str:
    """Such as "CPU", "CPU_REPACK", or "AMX"."""
    return str(function("ggml_backend_buft_name")(buffer_type).decode())


def supports(
    device: Address, buffer_type: Address, type_code: int, columns: int, rows: int
) -> bool:
    """Whether weights of a type and shape can be multiplied with in a buffer type."""
    slot = ctypes.cast
    with arena() as memory:
        weights = function("ggml_new_tensor_2d")(memory, type_code, columns, rows)
        inputs = function("ggml_new_tensor_2d")(memory, 0, columns, 1)
        product = function("ggml_mul_mat")(memory, weights, inputs)
        # As llama.cpp asks: the buffer is empty, and there for its type.
        buffer = function("ggml_backend_buft_alloc_buffer")(buffer_type, 0)
        field = slot(weights + _TENSOR_BUFFER_OFFSET, _Pointers)
        field[0] = buffer
        answer = bool(function("ggml_backend_dev_supports_op")(device, product))
        field[0] = None
        function("ggml_backend_buffer_free")(buffer)
    return answer


@contextmanager
def arena(size: int = 1 << 20) -> Iterator[Address]:
    """Memory for descriptions of tensors, freed at the end. Their data is elsewhere."""
    context = function("ggml_init")(_InitParams(size, None, True))
    if not context:
        raise MemoryError("ggml has no memory for tensors")
    try:
        yield Address(context)
    finally:
        function("ggml_free")(context)


@contextmanager
def allocated(memory: Address, buffer_type: Address) -> Iterator[Address]:
    """The data of all tensors in an arena, in one buffer, freed at the end."""
    buffer = function("ggml_backend_alloc_ctx_tensors_from_buft")(memory, buffer_type)
    if not buffer:
        raise MemoryError("ggml has no memory for weights")
    try:
        yield Address(buffer)
    finally:
        function("ggml_backend_buffer_free")(buffer)


def holds_weights(buffer: Address) -> None:
    """Say that a buffer's tensors are weights, as a model's are."""
    function("ggml_backend_buffer_set_usage")(buffer, _WEIGHTS)


@contextmanager
def computing(device: Address, threads: int) -> Iterator[Address]:
    """Something that computes graphs on a device with so many threads."""
    backend = function("ggml_backend_dev_init")(device, None)
    set_threads = _procedure(device, b"ggml_backend_set_n_threads")
    try:
        if set_threads:
            ctypes.CFUNCTYPE(None, Pointer, ctypes.c_int)(set_threads)(backend, threads)
        yield Address(backend)
    finally:
        function("ggml_backend_free")(backend)


def _procedure(device: Address, name: bytes) -> int | None:
    registry = function("ggml_backend_dev_backend_reg")(device)
    found: int | None = function("ggml_backend_reg_get_proc_address")(registry, name)
    return found
