"""Compares llama.cpp's logits of one weight type with NumPy's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from llm_serving_engine.backends.build_record import Check, Outcome
from llm_serving_engine.backends.self_check.computation import Computation, ComputationError
from llm_serving_engine.backends.self_check.tiny_llama import TOKENS, Doubles, TinyLlama
from llm_serving_engine.backends.self_check.weights import WEIGHT_TYPES, Floats

ROWS = (1, 4, 16, 64, 101)
"""Tokens in a call: kernels differ by it, and attention's last tile of 64 may have fewer rows."""

WORST_TO_TOLERANCE = 6
"""How many tolerances a single logit may be off: one wrong block of weights moves it more."""


def compare(name: str, model: TinyLlama, path: Path) -> Check:
    """Check a weight type, with the kernels that llama.cpp chooses and with the plain ones.

    Args:
        name: The weight type.
        model: What the reference is computed from.
        path: The model's file, which llama.cpp computes.
    """
    chosen = _compare(name, model, path, repack=True)
    if chosen.outcome is not Outcome.OK:
        return replace(chosen, detail=f"chosen kernels: {chosen.detail}")
    plain = _compare(name, model, path, repack=False)
    if plain.outcome is not Outcome.OK:
        return replace(plain, detail=f"plain kernels: {plain.detail}")
    return max(chosen, plain, key=lambda check: check.error or 0.0)


def _compare(name: str, model: TinyLlama, path: Path, *, repack: bool) -> Check:
    tolerance = WEIGHT_TYPES[name].tolerance
    error = 0.0
    try:
        with Computation(path, repack=repack) as computation:
            for rows in ROWS:
                tokens = np.random.default_rng(rows).integers(0, TOKENS, rows, np.int32)
                distance, worst = distances(computation.logits(tokens), model.logits(tokens))
                if not (distance <= tolerance and worst <= tolerance * WORST_TO_TOLERANCE):
                    detail = f"{rows} rows: {_words(distance, worst, tolerance)}"
                    return Check(Outcome.WRONG, _finite(distance), detail)
                error = max(error, distance)
    except ComputationError as failure:
        return Check(Outcome.WRONG, None, str(failure))
    return Check(Outcome.OK, _finite(error))


def distances(logits: Floats, reference: Doubles) -> tuple[float, float]:
    """The root mean square of the differences and the largest of them, by the logits' size.

    NaN where a logit is not finite.
    """
    size = float(np.sqrt(np.square(reference).mean()))
    differences = logits - reference
    return (
        float(np.sqrt(np.square(differences).mean())) / size,
        float(np.abs(differences).max()) / size,
    )


def _finite(distance: float) -> float | None:
    return round(distance, 6) if np.isfinite(distance) else None


def _words(distance: float, worst: float, tolerance: float) -> str:
    if not np.isfinite(distance):
        return "the logits are not finite"
    return (
        f"the logits are off by {distance:.4g} (at most {tolerance} is right), "
        f"the worst by {worst:.4g} (at most {tolerance * WORST_TO_TOLERANCE:.2f})"
    )
