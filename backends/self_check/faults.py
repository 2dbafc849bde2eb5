"""Faults that tests inject to make the self-check fail."""

from __future__ import annotations

import enum
import os
from pathlib import Path

from llm_serving_engine.backends.self_check.weights import Matrix

VARIABLE = "LSE_TEST_SELF_CHECK"
"""Such as "full=wrong,no-amx=crash": builds by their features, and what is to go wrong there."""


class Fault(enum.Enum):
    """What is to go wrong."""

    WRONG = "wrong"  # one block of weights is not what the reference has
    CRASH = "crash"
    HANG = "hang"


def fault_for(features: str) -> Fault | None:
    """The fault that the environment asks for in a build. Raises ValueError for an unknown one."""
    pairs = [pair.partition("=") for pair in os.environ.get(VARIABLE, "").split(",") if pair]
    return next((Fault(fault or "wrong") for name, _, fault in pairs if name == features), None)


def spoil(path: Path, matrix: Matrix) -> None:
    """Change the first block of a matrix in a model's file: the last of its bytes."""
    content = bytearray(path.read_bytes())
    start = content.index(matrix.stored)
    for offset in range(start + matrix.type.bytes // 2, start + matrix.type.bytes):
        content[offset] ^= 0x55
    path.write_bytes(bytes(content))
