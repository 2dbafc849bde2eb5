from __future__ import annotations

import pytest

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.slots import SlotTable


def new_sequence(name: str = "a") -> Sequence:
    return Sequence(Request(name, (1,), 1), [Transition(State.WAITING, 0.0)])


def test_the_lowest_free_slot_is_taken_first() -> None:
    slots = SlotTable(3)
    sequences = [new_sequence() for _ in range(3)]
    assert [slots.take(sequence) for sequence in sequences] == [0, 1, 2]
    assert slots.full
    slots.release(sequences[2])
    slots.release(sequences[0])
    assert slots.take(new_sequence()) == 0
    assert slots.in_use == 2


def test_a_full_table_gives_no_slot() -> None:
    slots = SlotTable(1)
    slots.take(new_sequence())
    with pytest.raises(ValueError, match="not in list"):
        slots.take(new_sequence())


def test_what_holds_no_slot_cannot_be_released() -> None:
    with pytest.raises(ValueError, match="holds no slot"):
        SlotTable(1).release(new_sequence())
