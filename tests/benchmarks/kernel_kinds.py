"""What a request takes with each kind of matrix kernels, by weight type: the matrices alone.

.venv/bin/python tests/benchmarks/kernel_kinds.py [--columns 2048] [--rows 8192] [--slots 16]
"""

from __future__ import annotations

import argparse
import sys
import time

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.llama_cpp.kernel_times import (
    CannotMeasure,
    KernelTimes,
    Weights,
    distinct_kinds,
    measure,
)
from llm_serving_engine.backends.llama_cpp.kernels import Kernels

TYPES = ("Q4_0", "Q4_1", "Q8_0", "Q2_K", "Q4_K", "Q6_K", "IQ4_NL", "F16", "BF16")
PAUSE_SECONDS = 2.0
# As many as a model of a billion parameters has.
ELEMENTS = 1_000_000_000
BITS = {"Q4_0": 4.5, "Q4_1": 5, "Q8_0": 8.5, "Q2_K": 2.625, "Q4_K": 4.5, "Q6_K": 6.5625,
        "IQ4_NL": 4.5, "F16": 16, "BF16": 16}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--slots", type=int, default=16)
    arguments = parser.parse_args()
    kernels, busy = Kernels(), max(arguments.slots // 2, 1)
    for name in TYPES:
        size = round(ELEMENTS * BITS[name] / 8)
        weights = Weights({name: size}, arguments.columns, arguments.rows)
        kinds = distinct_kinds(kernels, weights)
        for kind, one in patiently(kernels, weights, kinds, busy).items():
            print(
                f"{name} {kind}: {one.decode_seconds * 1000:.0f} ms for {busy} rows, "
                f"{one.prefill_seconds * 1000:.0f} ms for 64 tokens, "
                f"{one.request_seconds(busy):.2f} s for a request, bits kept: {one.keeps_bits}"
            )


def patiently(
    kernels: Kernels, weights: Weights, kinds: tuple[str, ...], rows: int
) -> dict[str, KernelTimes]:
    """Measure as soon as nothing else computes."""
    while (times := attempt(kernels, weights, kinds, rows)) is None:
        time.sleep(PAUSE_SECONDS)
    return times


def attempt(
    kernels: Kernels, weights: Weights, kinds: tuple[str, ...], rows: int
) -> dict[str, KernelTimes] | None:
    try:
        return measure(kernels, weights, kinds, machine.compute_threads(), rows)
    except CannotMeasure as error:
        print(f"{error}; trying again", file=sys.stderr)
        return None


if __name__ == "__main__":
    main()
