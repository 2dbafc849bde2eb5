"""The interface of backends, which hold a model and execute steps on it.

A backend runs alone in a process of its own, on one thread. To add one, write
a class with the members of `Backend` and of `BackendFactory`, and name it in
`registry.py`, or give its import path: docs/backends.md shows one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, Protocol

from llm_serving_engine.backends.text.tokenizer import Tokenizer
from llm_serving_engine.scheduler.step import Capabilities, Step, StepResult

AUTO: Final = "auto"
AMX = "amx"
REPACK = "repack"
PLAIN = "plain"
KERNELS = (AUTO, AMX, REPACK, PLAIN)
"""What `kernels` can be."""

RUNNER = "model.runner."
"""What a setting's name begins with in messages."""

LIBRARY_SEQUENCES_MAX = 256
"""The most that llama.cpp can have; ctransformers is held to it."""

_INT32_MAX = 2**31 - 1
_RANGES = {
    "sequences": (1, 1024),
    "context_per_sequence": (1, 2**24),
    "threads": (1, 512),  # ggml's own limit
    "prefill_chunk": (1, _INT32_MAX),
    "gpu_layers": (-1, _INT32_MAX),
    "memory_bytes_max": (1, 2**63 - 1),
}
"""The smallest and the largest value of each number."""

_REMARKS = {
    "sequences": f", with llama.cpp and ctransformers 1 to {LIBRARY_SEQUENCES_MAX}",
}


@dataclass(frozen=True, slots=True)
class BackendConfig:
    """How to run a model. None: chosen from the machine and the model.

    Attributes:
        sequences: Slots: requests that run at the same time. Each takes its part of the cache,
            even when idle. Not set: chosen from the memory, at most 16.
        context_per_sequence: Tokens of one request, prompt plus output. The cache's size is
            proportional to sequences times context. Not set: chosen from the model and the memory.
        threads: Threads that compute. More threads than cores are slower. Not set: the physical
            cores that the process may use.
        yield_cores: Whether fewer threads compute while other processes use the cores. Without
            this, one busy process makes steps several times as long, because all threads wait
            for the one that lost its core.
        prefill_chunk: Prompt tokens in one call, at most those of a slot. Not set: about the
            fastest length, measured when the model is loaded for the first time (if it is large,
            for the second). Longer chunks take more memory for intermediate results.
        cache_type: Storage of the cache: "f16", or "q8_0", which takes half the memory and
            changes the speed of attention. "auto" selects the faster by measurement.
        flash_attention: Whether to use the fused attention kernel, which is slower than
            separate matrix products on some processors. "auto" selects the faster by
            measurement; with determinism "batch_invariant", the fused kernel.
        batch_invariant: Whether a sequence's bits must not depend on the other sequences. The
            server sets it by `scheduler.determinism`; the configuration cannot.
        kernels: Matrix kernels: "amx", "repack" (weights reordered for vector instructions,
            which takes memory for the copies), or "plain" (weights as in the file). "auto"
            selects the fastest by measurement.
        gpu_layers: Layers on the GPU; -1 for all. No effect without a GPU. Not set: all on
            Apple Silicon, otherwise 0.
        architecture: The architecture of a legacy GGML file, such as "gpt2", which the file
            does not contain. Ignored for GGUF files. Not set: none.
        memory_bytes_max: Memory of the runner, mapped weights included. A model that needs more
            is not loaded, and a runner that takes more is replaced. Leave room for
            scheduler.snapshot_bytes_max. Not set: no limit but the available memory.
    """

    sequences: int | None = None
    context_per_sequence: int | None = None
    threads: int | None = None
    yield_cores: bool = True
    prefill_chunk: int | None = None
    cache_type: str = "f16"
    flash_attention: bool | Literal["auto"] = AUTO
    kernels: str = AUTO
    gpu_layers: int | None = None
    batch_invariant: bool = False
    architecture: str | None = None
    memory_bytes_max: int | None = None

    def __post_init__(self) -> None:
        for name, (smallest, largest) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not smallest <= value <= largest:
                remark = _REMARKS.get(name, "")
                raise ValueError(f"{name} is {value}; it can be {smallest} to {largest}{remark}")
        if self.kernels not in KERNELS:
            known = ", ".join(KERNELS)
            raise ValueError(f"kernels is {self.kernels!r}; it can be one of: {known}")


class LoadReport(NamedTuple):
    """What loading a model came to.

    Attributes:
        capabilities: What the scheduler may plan with.
        settings: The configuration with every choice made, for people.
        memory_bytes: What the runner's process holds, by part; their sum is
            its resident memory.
        estimated_bytes: What was worked out before loading; 0 where nothing was.
        notes: What an operator should know of these settings, a sentence each.
    """

    capabilities: Capabilities
    settings: dict[str, str]
    memory_bytes: dict[str, int]
    estimated_bytes: int = 0
    notes: tuple[str, ...] = ()


class LoadError(Exception):
    """The model cannot be loaded; the message says why in one line."""


Progress = Callable[[float], None]
"""Called with the fraction of a model that is loaded, from 0 to 1."""


class Backend(Protocol):
    """A loaded model, in the runner's process."""

    @property
    def report(self) -> LoadReport:
        """What loading came to."""

    def execute(self, step: Step) -> StepResult:
        """Execute a step's parts in order. A failure of one slot fails only that slot."""

    def close(self) -> None:
        """Give the memory back."""


class BackendFactory(Protocol):
    """The interface of a backend's class."""

    def __call__(self, path: str, config: BackendConfig, progress: Progress, /) -> Backend:
        """Load the model file at `path`, in the runner's process. Raises LoadError."""

    def load_tokenizer(self, path: Path, config: BackendConfig, /) -> Tokenizer:
        """The model's vocabulary: a static method.

        It loads no weights. The runner's process calls it first; the server's
        does where that process has survived it.

        Raises:
            ModelError: The file cannot be used.
        """
