"""ctransformers' shared library, and the functions of it that are used.

It holds an early llama.cpp, whose C API it exports, beside loaders of its own
for GGML files. Its Python class has one sequence with weights of its own; by
the C API, GGUF weights are mapped once for all sequences.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
from pathlib import Path
from typing import Any

from llm_serving_engine.backends.backend import LoadError

_PACKAGE = "ctransformers"
_VERSION = "0.2.27"  # the last one; `ContextParams` is its layout
# Linux says here what the processor can do.
_PROCESSOR = Path("/proc/cpuinfo")
_VARIANTS = {"avx2": {"avx2", "fma", "f16c"}, "avx": {"avx", "f16c"}}

LOG_ERROR = 2
LogCallback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
ProgressCallback = ctypes.CFUNCTYPE(None, ctypes.c_float, ctypes.c_void_p)


class ContextParams(ctypes.Structure):
    """`llama_context_params`, which is handed over by value."""

    _fields_ = (
        ("seed", ctypes.c_uint32),
        ("n_ctx", ctypes.c_int32),
        ("n_batch", ctypes.c_int32),
        ("n_gpu_layers", ctypes.c_int32),
        ("main_gpu", ctypes.c_int32),
        ("tensor_split", ctypes.c_void_p),
        ("rope_freq_base", ctypes.c_float),
        ("rope_freq_scale", ctypes.c_float),
        ("progress_callback", ProgressCallback),
        ("progress_callback_user_data", ctypes.c_void_p),
        ("low_vram", ctypes.c_bool),
        ("mul_mat_q", ctypes.c_bool),
        ("f16_kv", ctypes.c_bool),
        ("logits_all", ctypes.c_bool),
        ("vocab_only", ctypes.c_bool),
        ("use_mmap", ctypes.c_bool),
        ("use_mlock", ctypes.c_bool),
        ("embedding", ctypes.c_bool),
    )


@functools.cache
def library() -> Any:
    """The library that suits this machine's processor.

    Returns:
        A ctypes library; each call releases the GIL.

    Raises:
        LoadError: It is not installed, of another version, or not made for this platform.
    """
    try:
        version = importlib.metadata.version(_PACKAGE)
        if version != _VERSION:
            raise LoadError(f"ctransformers {version} is installed; {_VERSION} is needed")
        from ctransformers.llm import load_library

        return _declare(load_library(_variant()))
    except ImportError as error:
        raise LoadError(
            f"ctransformers cannot be imported ({error}): "
            "pip install 'llm-serving-engine[ctransformers]'"
        ) from error
    except OSError as error:
        # Its wheel brings libraries for x86-64 and for macOS, and is installed anywhere.
        reason = str(error).partition("\n")[0]
        raise LoadError(f"ctransformers has no library for this platform: {reason}") from error


def _variant() -> str | None:
    """Return the build for the processor; None to let ctransformers choose.

    It can everywhere, and takes more than a second.
    """
    try:
        flags = set(_PROCESSOR.read_text().split())
    except OSError:
        return None
    for name, needed in _VARIANTS.items():
        if needed <= flags:
            return name
    return "basic"


def _declare(found: Any) -> Any:
    """State the types of llama.cpp's functions; ctransformers states those of its own."""
    pointer, integer = ctypes.c_void_p, ctypes.c_int
    tokens, logits = ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_float)
    for name, result, arguments in (
        ("llama_context_default_params", ContextParams, ()),
        ("llama_load_model_from_file", pointer, (ctypes.c_char_p, ContextParams)),
        ("llama_new_context_with_model", pointer, (pointer, ContextParams)),
        ("llama_eval", integer, (pointer, tokens, integer, integer, integer)),
        ("llama_get_logits", logits, (pointer,)),
        ("llama_model_n_vocab", integer, (pointer,)),
        ("llama_free", None, (pointer,)),
        ("llama_free_model", None, (pointer,)),
        ("llama_log_set", None, (LogCallback, pointer)),
    ):
        function = getattr(found, name)
        function.restype = result
        function.argtypes = arguments
    return found
