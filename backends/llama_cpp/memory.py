"""Estimates llama.cpp's memory for a model from the model's header.

The constants are measured, on Linux and x86-64, as differences of resident
memory between loads that differ in one thing. tests/backends/test_memory.py
holds the sum against what a loaded runner takes.
"""

from __future__ import annotations

import platform

from llm_serving_engine.backends.backend import AMX, PLAIN
from llm_serving_engine.backends.cpu import cpu_flags
from llm_serving_engine.backends.llama_cpp.settings import CACHE_TYPES, Settings
from llm_serving_engine.backends.memory_estimate import MemoryEstimate
from llm_serving_engine.backends.models.info import ModelInfo

# The interpreter, NumPy, and the libraries.
PROGRAM_BYTES = 47_000_000
# A token of the vocabulary: its text and its places in tables.
VOCABULARY_TOKEN_BYTES = 350
# How many rows as wide as the model, and as its feed-forward part, live at once.
LIVE_ROWS = 4
FLOAT_BYTES = 4

# Types for which a CPU has kernels that want the weights in another order.
_REPACKED_ON_X86 = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
_REPACKED_WITH_AVX512 = frozenset({"Q2_K"})
_REPACKED_ON_ARM = _REPACKED_ON_X86 | {"Q5_K", "Q6_K", "Q8_0"}
_REORDERED_FOR_AMX = frozenset({"Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "F16"})


def estimate_memory(info: ModelInfo, settings: Settings) -> MemoryEstimate:
    """Estimate a runner's memory with these settings, by part."""
    element_bytes = CACHE_TYPES[settings.cache_type]
    sequence_bytes = info.sequence_bytes(settings.context_per_sequence, element_bytes)
    return MemoryEstimate(
        weights=info.weights_bytes,
        # A GPU computes with the weights as they are.
        repacked=0 if settings.gpu_layers else _repacked(info, settings.kernels),
        cache=settings.sequences * sequence_bytes,
        buffers=PROGRAM_BYTES + info.vocabulary_size * VOCABULARY_TOKEN_BYTES
        + _intermediate(info, settings),
    )  # fmt: skip


def _repacked(info: ModelInfo, kernels: str) -> int:
    """Copies of weights; where the kind of kernels is not chosen yet, those of repacking."""
    if kernels == PLAIN:
        return 0
    arm = platform.machine().lower() in {"arm64", "aarch64"}
    types = _REPACKED_ON_ARM if arm else _REPACKED_ON_X86
    if "avx512f" in cpu_flags():
        types |= _REPACKED_WITH_AVX512
    if kernels == AMX:
        types |= _REORDERED_FOR_AMX
    return sum(size for name, size in info.matrix_bytes.items() if name in types)


def _intermediate(info: ModelInfo, settings: Settings) -> int:
    """The buffers of a computation, and the logits: where they arise, and where they are kept."""
    width = LIVE_ROWS * (info.embedding_length + info.feed_forward_length)
    if not settings.flash_attention:
        width += info.heads * settings.context_per_sequence
    logits = 2 * settings.sequences * info.vocabulary_size
    return FLOAT_BYTES * (settings.rows_max * width + logits)
