"""Calls that are timed when a model was loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llm_serving_engine.backends.llama_cpp.model import LlamaModel
from llm_serving_engine.backends.llama_cpp.part import FILLER, Part
from llm_serving_engine.backends.other_processes import OtherProcesses
from llm_serving_engine.scheduler.step import Shape, shape_of

# The fastest of some calls is what one takes on a machine that does nothing else.
TRIALS = 3
# No call is tried again after so long: the machine does other things, or the model is large.
AGAIN_SECONDS_MAX = 2.0


def timed_calls(
    model: LlamaModel, goes_on: Callable[[], None], others: OtherProcesses
) -> tuple[tuple[Shape, float], ...]:
    """Time some calls, and touch weights and buffers by it; leaves all slots empty.

    So the first request is computed like any other. Where other processes compute meanwhile,
    the seconds are lowered by the part of the cores that they took: the costs follow the
    machine later, but the step target does not.

    Args:
        model: That was just loaded.
        goes_on: Told after each call: those of a large model take long, and the host
            must know that it does not hang.
        others: What other processes take from now on.

    Returns:
        A chunk, a row, and a row in every slot: their shapes and seconds.
    """
    chunk = min(model.settings.prefill_chunk, model.context_per_sequence // 2)
    slots = model.settings.sequences

    def timed(parts: Sequence[Part]) -> tuple[Shape, float]:
        started = others.clock()
        model.decode(parts)
        seconds = others.clock() - started
        goes_on()
        return shape_of((part.slot, part.start, part.length) for part in parts), seconds

    def chunk_again(_trial: int) -> list[Part]:
        model.clear(0)
        return [Part(0, 0, FILLER * chunk)]

    def row(trial: int) -> list[Part]:
        return [Part(0, chunk + trial, FILLER)]

    def row_in_every_slot(_trial: int) -> list[Part]:
        for slot in range(slots):
            model.clear(slot)
        return [Part(slot, 0, FILLER) for slot in range(slots)]

    calls = ((chunk_again, 2), (row, TRIALS), (row_in_every_slot, 2))
    began = others.clock()
    fastest = []
    for make, trials in calls:
        best = timed(make(0))
        for trial in range(1, trials):
            if others.clock() - began < AGAIN_SECONDS_MAX:
                best = min(best, timed(make(trial)), key=lambda call: call[1])
        fastest.append(best)
    for slot in range(slots):
        model.clear(slot)
    share = others.share_left(model.settings.threads) if others.crowded() else 1.0
    return tuple((shape, seconds * share) for shape, seconds in fastest)
