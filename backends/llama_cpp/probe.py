"""Whether a sequence's logits depend on what is computed beside it, by trying.

Some of llama.cpp's matrix kernels add up in another order when there are more
rows. Whether that is so for a model depends on how its weights are stored and
on the processor, so it is asked of the model itself: the same tokens, alone
and in company, bit by bit.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llm_serving_engine.backends.llama_cpp.joint import Part, joint_calls
from llm_serving_engine.backends.llama_cpp.model import LlamaModel
from llm_serving_engine.scheduler.step import DecodeRow

REST = 5
STEPS = 3
COMPANIONS_MAX = 3


def keeps_bits(model: LlamaModel) -> bool:
    """Compare a prompt and a few decode steps; leaves all slots empty."""
    unit = model.settings.prefill_chunk
    prompt = tuple(np.random.default_rng(0).integers(0, model.vocabulary_size, unit + REST + 1))
    slots = range(min(model.settings.sequences, COMPANIONS_MAX + 1))
    if len(prompt) + STEPS > model.context_per_sequence or len(slots) < 2:
        return False
    alone = _logits(model, prompt, 0, ())
    beside = _logits(model, prompt, 1, tuple(slot for slot in slots if slot != 1))
    for slot in slots:
        model.clear(slot)
    return all(np.array_equal(a, b) for a, b in zip(alone, beside, strict=True))


def _logits(
    model: LlamaModel, prompt: tuple[int, ...], slot: int, others: tuple[int, ...]
) -> list[npt.NDArray[np.float32]]:
    """The logits of a prompt and of some steps after it, with others beside it.

    The others' prompts are longer by a token, with which this one is padded then.
    """
    unit = model.settings.prefill_chunk
    lengths = dict.fromkeys(others, len(prompt)) | {slot: len(prompt) - 1}
    for one in (slot, *others):
        model.clear(one)
    chunks = [
        [Part(one, 0, prompt[:unit], False), Part(one, unit, prompt[unit:length], one == slot)]
        for one, length in sorted(lengths.items())
    ]
    calls = joint_calls(chunks, model.limits)
    logits = [row.copy() for call in calls for row in model.decode_parts(call)]
    for other in others:
        model.clear(other)
        model.decode_chunk(other, 0, prompt[: other + 2], False)
    for step in range(STEPS):
        rows = [DecodeRow(other, other + 2 + step, int(prompt[step])) for other in others]
        rows.append(DecodeRow(slot, lengths[slot] + step, int(prompt[step])))
        rows.sort()
        computed = model.decode_rows(tuple(rows))
        logits.append(computed[[row.slot for row in rows].index(slot)].copy())
    return logits
