"""A step that the runner has."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving_engine.scheduler.cost import Shape
from llm_serving_engine.scheduler.preemption import Preemption
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import SlotTable
from llm_serving_engine.scheduler.step import SaveSlot, Step


@dataclass(slots=True)
class InFlight:
    """A step from its sending to its result.

    Attributes:
        step: What was asked of the runner.
        shape: What its duration depends on.
        holders: The sequences that it computes, by slot.
    """

    step: Step
    shape: Shape
    holders: dict[int, Sequence]

    @classmethod
    def of(cls, step: Step, slots: SlotTable, preemption: Preemption) -> InFlight:
        """Describe a step for the sequences that hold the slots now."""
        saves = (o for o in step.operations if isinstance(o, SaveSlot))
        used = {opened.slot for opened in step.opens}
        used |= {chunk.slot for chunk in step.prefills} | {row.slot for row in step.decodes}
        holders = {slot: holder for slot in used if (holder := slots[slot].holder) is not None}
        return cls(step, Shape.of(step, sum(map(preemption.tokens_of, saves))), holders)
