"""What `tune` leaves for later loads, with or without the file that it writes."""

from __future__ import annotations

from pathlib import Path

from llm_serving_engine.backends.llama_cpp.kernel_choice import SUBJECT, given
from llm_serving_engine.backends.measured import Measured, MeasuredStore
from llm_serving_engine.backends.tuning.search import Tuning


def remember_kernels(path: Path, tuning: Tuning) -> bool:
    """Let `kernels = "auto"` choose for this model what was measured through whole steps.

    Args:
        path: The model's file.
        tuning: What was found for it.

    Returns:
        Whether it was remembered: not where no kinds were compared.
    """
    choice = next((one for one in tuning.choices if one.name == SUBJECT), None)
    store = MeasuredStore.of(path)
    if choice is None or not choice.trials or store is None:
        return False
    figures = {f"{trial.value}_gain": trial.gain for trial in choice.trials}
    reason = ", ".join(
        f"{trial.gain:.2f} x the tokens/s of {choice.default} with {trial.value}"
        for trial in choice.trials
    )
    done = True
    # Where rows keep their bits with these kernels, they are right for both.
    for invariant in {False, tuning.batch_invariant}:
        key = given(tuning.settings, invariant)
        values = {SUBJECT: choice.value}
        done &= store.remember(Measured(SUBJECT, key, values, figures, f"tune measured: {reason}"))
    return done
