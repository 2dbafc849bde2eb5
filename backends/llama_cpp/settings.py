"""The configuration of one model on one machine, with every choice made."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import (
    AUTO,
    LIBRARY_SEQUENCES_MAX,
    RUNNER,
    BackendConfig,
    LoadError,
)
from llm_serving_engine.backends.llama_cpp.padding import TILED_TOKENS
from llm_serving_engine.backends.models.info import ModelInfo

# Bytes per element. q8_0 stores 32 elements in 34 bytes.
CACHE_TYPES = {"f16": 2.0, "q8_0": 34 / 32}

SEQUENCES = 16
SEQUENCES_MAX = LIBRARY_SEQUENCES_MAX  # llama.cpp's own limit
CONTEXT = 2048
CONTEXT_UNIT = 256  # llama.cpp rounds a sequence's cells up to this
# The share of the available memory that the cache is chosen to take at most.
CACHE_SHARE = 0.25
# Before anything is measured: 64 rows are where llama.cpp's tiled attention begins; a
# GPU wants more at a time.
PREFILL_CHUNK_CPU = 64
PREFILL_CHUNK_GPU = 512
# Chunks of several sequences that are computed together: with more, nothing is gained.
JOINT_ROWS_MAX = 256
# Whatever the chunk: output that is computed again comes in up to half a tile, and trials of
# caches and bits take a few tokens.
ROWS_LEAST = TILED_TOKENS // 2
ALL_LAYERS = -1
NO_FLASH = f"{RUNNER}flash_attention = false is not possible"


@dataclass(frozen=True, slots=True)
class Settings:
    """What the context is made with; the fields are those of BackendConfig."""

    sequences: int
    context_per_sequence: int
    threads: int
    prefill_chunk: int
    cache_type: str
    flash_attention: bool
    gpu_layers: int
    kernels: str = AUTO

    @classmethod
    def choose(cls, config: BackendConfig, info: ModelInfo) -> Settings:
        """Fill in what the configuration leaves open.

        What is to be measured has a default here: `speed_choice.py` replaces it.

        Raises:
            LoadError: The configuration asks for what cannot be.
        """
        _check(config, info)
        gpu_layers = config.gpu_layers
        if gpu_layers is None:
            gpu_layers = ALL_LAYERS if machine.apple_silicon() else 0
        sequences, context = _shape(config, info)
        chunk = config.prefill_chunk or (PREFILL_CHUNK_GPU if gpu_layers else PREFILL_CHUNK_CPU)
        return cls(
            sequences=sequences,
            context_per_sequence=context,
            threads=config.threads or machine.compute_threads(),
            prefill_chunk=min(chunk, context),
            cache_type=_cache_type(config),
            flash_attention=config.flash_attention is not False,
            gpu_layers=gpu_layers,
            kernels=config.kernels,
        )

    @property
    def rows_max(self) -> int:
        """Tokens that are computed in one call: decode rows, or a chunk, or several."""
        joint = min(JOINT_ROWS_MAX, self.sequences * self.prefill_chunk)
        return max(self.prefill_chunk, self.sequences, joint, ROWS_LEAST)

    def described(self) -> dict[str, str]:
        """The settings in words, for the start-up line."""
        return {
            "sequences": str(self.sequences),
            "context_per_sequence": str(self.context_per_sequence),
            "threads": str(self.threads),
            "prefill_chunk": str(self.prefill_chunk),
            "cache_type": self.cache_type,
            "flash_attention": "on" if self.flash_attention else "off",
            "kernels": self.kernels,
            "gpu_layers": "all" if self.gpu_layers == ALL_LAYERS else str(self.gpu_layers),
        }


def _shape(config: BackendConfig, info: ModelInfo) -> tuple[int, int]:
    """Sequences, and context of each: halved, context first, until the cache fits its share."""
    sequences = config.sequences or SEQUENCES
    context = config.context_per_sequence or min(CONTEXT, info.training_context or CONTEXT)
    element_bytes = CACHE_TYPES[_cache_type(config)]
    budget = machine.memory_within(config.memory_bytes_max) * CACHE_SHARE

    def fits() -> bool:
        return sequences * info.sequence_bytes(context, element_bytes) <= budget

    while not fits() and config.context_per_sequence is None and context > 2 * CONTEXT_UNIT:
        context //= 2
    while not fits() and config.sequences is None and sequences > 1:
        sequences //= 2
    return sequences, -(-context // CONTEXT_UNIT) * CONTEXT_UNIT


def _cache_type(config: BackendConfig) -> str:
    return "f16" if config.cache_type == AUTO else config.cache_type


def _check(config: BackendConfig, info: ModelInfo) -> None:
    if config.cache_type not in (*CACHE_TYPES, AUTO):
        known = ", ".join((*CACHE_TYPES, AUTO))
        raise LoadError(f"{RUNNER}cache_type is {config.cache_type!r}; it can be one of: {known}")
    if config.cache_type not in {"f16", AUTO} and config.flash_attention is False:
        raise LoadError(f'{NO_FLASH} with {RUNNER}cache_type = "{config.cache_type}"')
    if config.batch_invariant and config.flash_attention is False:
        # Output that is computed again keeps its bits with the fused kernel only.
        raise LoadError(f'{NO_FLASH} with scheduler.determinism = "batch_invariant"')
    if not 1 <= (config.sequences or 1) <= SEQUENCES_MAX:
        raise LoadError(f"{RUNNER}sequences is {config.sequences}; it can be 1 to {SEQUENCES_MAX}")
    # What `_shape` chose, and rounded up, can be asked for again.
    context_max = -(-info.training_context // CONTEXT_UNIT) * CONTEXT_UNIT
    context = config.context_per_sequence or 1
    if info.training_context and context > info.training_context and context != context_max:
        raise LoadError(
            f"{RUNNER}context_per_sequence is {config.context_per_sequence}; "
            f"the model was trained for {info.training_context}"
        )
