"""Whether a sequence's logits depend on what is computed beside it, by trying.

Some of llama.cpp's matrix kernels add up in another order when there are more
rows. Whether that is so for a model depends on how its weights are stored and
on the processor, so it is asked of the model itself: the same tokens, alone
and in company, bit by bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from llm_serving_engine.backends.llama_cpp.fillers import add_neighbours
from llm_serving_engine.backends.llama_cpp.model import LlamaModel
from llm_serving_engine.backends.llama_cpp.padding import padded
from llm_serving_engine.backends.llama_cpp.part import Part
from llm_serving_engine.backends.measured import Measured, MeasuredStore, Scalar

SUBJECT = "keeps_bits"
# What is remembered of another way of trying is tried again.
METHOD = 3
REST = 5
# Sequences beside the one whose bits are compared: in its prompt, and in each decode step.
# Kernels for Q4_K are others from 8 rows on.
NEIGHBOURS_MAX = 3
STEP_NEIGHBOURS = (3, 7, 15)
STEPS = len(STEP_NEIGHBOURS)

Tokens = tuple[int, ...]
Rows = list[npt.NDArray[np.float32]]


def kept_bits(model: LlamaModel, unit: int, path: Path) -> bool:
    """As keeps_bits; what an earlier load of the same file has found is remembered."""
    settings = model.settings
    key: dict[str, Scalar] = {
        "method": METHOD,
        "unit": unit,
        "threads": settings.threads,
        "kernels": settings.kernels,
        "sequences": settings.sequences,
        "context": settings.context_per_sequence,
        "flash_attention": settings.flash_attention,
        "cache_type": settings.cache_type,
        "gpu_layers": settings.gpu_layers,
    }
    store = MeasuredStore.of(path)
    if store is None:
        return keeps_bits(model, unit)
    remembered = store.recall(SUBJECT, key)
    if remembered and isinstance(remembered.values.get(SUBJECT), bool):
        return bool(remembered.values[SUBJECT])
    kept = keeps_bits(model, unit)
    store.remember(Measured(SUBJECT, key, {SUBJECT: kept}))
    return kept


def keeps_bits(model: LlamaModel, unit: int) -> bool:
    """Compare a prompt and a few decode steps; leaves all slots empty.

    Args:
        model: All its slots are empty.
        unit: The length of chunks; less is tried where a slot has no room for more.
    """
    if model.settings.sequences < 2:
        return True  # there are no others
    unit = min(unit, model.context_per_sequence - REST - 1 - STEPS)
    if unit < 1:
        return False
    prompt = tuple(np.random.default_rng(0).integers(0, model.vocabulary_size, unit + REST + 1))
    slots = range(min(model.settings.sequences, max(STEP_NEIGHBOURS) + 1))
    alone = _logits(model, prompt, unit, 0, ())
    others = tuple(slot for slot in slots if slot != 1)
    beside = _logits(model, prompt, unit, 1, others)
    model.clear_all()
    return all(np.array_equal(a, b) for a, b in zip(alone, beside, strict=True))


def _logits(model: LlamaModel, prompt: Tokens, unit: int, slot: int, others: Tokens) -> Rows:
    """The logits of a prompt and of some steps after it, with others beside it."""
    length = len(prompt) - 1
    model.clear_all()
    logits = _prompt_logits(model, prompt, unit, slot, others[:NEIGHBOURS_MAX])
    for other in others:
        model.clear(other)
    if others:
        model.decode([Part(other, 0, prompt[other : other + 2], wanted=False) for other in others])
    model.drop_from(slot, length)
    for step, neighbours in enumerate(STEP_NEIGHBOURS):
        token = (int(prompt[step]),)
        rows = [Part(other, model.length(other), token) for other in others[:neighbours]]
        rows.append(Part(slot, length + step, token))
        rows.sort()
        # As in service: a lone row that looks at many cells gets a filler beside it.
        together = add_neighbours(rows, model.settings.sequences, model.length)
        computed = model.decode(together)
        logits.append(computed[[row.slot for row in rows].index(slot)].copy())
        for filler in set(together) - set(rows):
            model.drop_fillers(filler.slot, filler.start)
    return logits


def _prompt_logits(model: LlamaModel, prompt: Tokens, unit: int, slot: int, others: Tokens) -> Rows:
    """The others' prompts are longer by a token, with which this one is padded."""
    lengths = dict.fromkeys(others, len(prompt)) | {slot: len(prompt) - 1}
    for start, stop in ((0, unit), (unit, len(prompt))):
        together = (stop - start) * len(lengths) <= model.settings.rows_max
        parts = [
            Part(one, start, prompt[start : min(stop, end)], wanted=one == slot and start > 0)
            for one, end in sorted(lengths.items())
        ]
        for call in [padded(parts)] if together else [[part] for part in parts]:
            logits = model.decode(call)
            if any(part.wanted for part in call):
                last = logits[0].copy()
    return [last]
