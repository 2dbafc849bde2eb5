"""The configuration of one model on one machine, with every choice made."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import (
    LIBRARY_SEQUENCES_MAX,
    RUNNER,
    BackendConfig,
    LoadError,
)
from llm_serving_engine.backends.memory_estimate import MemoryEstimate

# They take turns: more of them let more requests begin, and make none of them faster.
SEQUENCES = 8
SEQUENCES_MAX = LIBRARY_SEQUENCES_MAX
CONTEXT = 2048
# The share of the available memory that what sequences have of their own may take.
CACHE_SHARE = 0.25
COPIES_SHARE = 0.5
PREFILL_CHUNK = 64
# The loaders of GGML files keep all that a chunk computes in one buffer.
PREFILL_CHUNK_COPIED = 32
# The interpreter, NumPy, and the library: measured on Linux and x86-64.
PROGRAM_BYTES = 57_000_000


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model's sequences take.

    Attributes:
        training_context: Tokens.
        token_bytes: Memory for one token of a sequence's cache.
        weights_bytes: All weights.
        copied: Each sequence has weights of its own.
        fixed_context: The cache is as long as the file says, whatever is configured.
    """

    training_context: int
    token_bytes: int
    weights_bytes: int
    copied: bool = False
    fixed_context: bool = False

    def cache_bytes(self, context: int) -> int:
        """Of one sequence that may hold `context` tokens."""
        cells = self.training_context if self.fixed_context else context
        return cells * self.token_bytes

    def memory(self, sequences: int, context: int) -> MemoryEstimate:
        """What a runner will take."""
        return MemoryEstimate(
            weights=self.weights_bytes * (sequences if self.copied else 1),
            repacked=0,
            cache=self.cache_bytes(context) * sequences,
            buffers=PROGRAM_BYTES,
        )


@dataclass(frozen=True, slots=True)
class Settings:
    """What the sequences are made with; the fields are those of BackendConfig."""

    sequences: int
    context_per_sequence: int
    threads: int
    prefill_chunk: int

    @classmethod
    def choose(cls, config: BackendConfig, needs: Needs) -> Settings:
        """Fill in what the configuration leaves open.

        Raises:
            LoadError: The configuration asks for what cannot be.
        """
        _check(config, needs)
        sequences, context = _shape(config, needs)
        chunk = PREFILL_CHUNK_COPIED if needs.copied else PREFILL_CHUNK
        return cls(
            sequences=sequences,
            context_per_sequence=context,
            threads=config.threads or machine.compute_threads(),
            prefill_chunk=min(config.prefill_chunk or chunk, context),
        )

    def described(self) -> dict[str, str]:
        """The settings in words, for the start-up line."""
        return {name: str(value) for name, value in asdict(self).items()}


def _shape(config: BackendConfig, needs: Needs) -> tuple[int, int]:
    """Sequences, and context of each: as many as fit their share of memory."""
    sequences = config.sequences or SEQUENCES
    longest = needs.training_context or CONTEXT
    context = config.context_per_sequence or (
        longest if needs.fixed_context else min(CONTEXT, longest)
    )
    each = needs.cache_bytes(context) + (needs.weights_bytes if needs.copied else 0)
    share = COPIES_SHARE if needs.copied else CACHE_SHARE
    budget = machine.memory_within(config.memory_bytes_max) * share
    while config.sequences is None and sequences > 1 and sequences * each > budget:
        sequences //= 2
    return sequences, context


def _check(config: BackendConfig, needs: Needs) -> None:
    if config.cache_type != "f16":
        raise LoadError(
            f"{RUNNER}cache_type is {config.cache_type!r}; ctransformers has no other than f16"
        )
    if config.gpu_layers:
        raise LoadError(
            f"{RUNNER}gpu_layers is {config.gpu_layers}; ctransformers runs on the CPU here"
        )
    if (config.sequences or 1) > SEQUENCES_MAX:
        raise LoadError(f"{RUNNER}sequences is {config.sequences}; it can be 1 to {SEQUENCES_MAX}")
    if needs.training_context and (config.context_per_sequence or 1) > needs.training_context:
        raise LoadError(
            f"{RUNNER}context_per_sequence is {config.context_per_sequence}; "
            f"the model was trained for {needs.training_context}"
        )
