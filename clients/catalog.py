"""The server's description of its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ModelState = Literal["unspecified", "loading", "ready", "failed", "draining"]
"""Whether a model can answer."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What can be asked of a model; see the wire message of the same name."""

    sequences_max: int
    context_per_sequence: int
    logprobs: bool
    chat: bool
    partial_clear: bool
    prefix_copy: bool
    save_restore: bool
    grammar: bool
    batch_invariant: bool


@dataclass(frozen=True, slots=True)
class Model:
    """One model.

    Attributes:
        name: Its name in requests.
        backend: What runs it, such as "llama.cpp".
        architecture: Such as "llama".
        description: The model's name in its file.
        parameter_count: The number of parameters.
        quantization: How the weights are stored, such as "Q4_1".
        vocabulary_size: Tokens in the vocabulary.
        training_context: Tokens of context in training.
        memory_bytes: Memory of its process; 0 until it is loaded.
        state: Whether it can answer.
        state_reason: Why it has failed, or a limitation, in words; else empty.
        capabilities: What it supports; None until it is loaded.
        is_default: Whether requests that name no model get it.
        settings: Its runner's, with every choice made; empty until it is loaded.
        notes: What an operator should know of them, a sentence each.
    """

    name: str
    backend: str
    architecture: str
    description: str
    parameter_count: int
    quantization: str
    vocabulary_size: int
    training_context: int
    memory_bytes: int
    state: ModelState
    state_reason: str
    capabilities: Capabilities | None
    is_default: bool
    settings: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
