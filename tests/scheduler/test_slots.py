from __future__ import annotations

import pytest

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.slots import SlotTable


def new_sequence(tenant: str = "", salt: str = "") -> Sequence:
    request = Request("a", (1, 2, 3), 1, tenant=tenant, cache_salt=salt)
    return Sequence(request, [Transition(State.WAITING, 0.0)])


def test_what_a_sequence_leaves_behind_is_what_was_computed() -> None:
    slots = SlotTable(2)
    sequence = new_sequence("tenant", "salt")
    slots.take(slots[1], sequence)
    sequence.computed = 2
    assert slots[1].cached() == (1, 2)
    slots.release(sequence, 5.0, keep=True)
    assert slots[1].cached() == (1, 2)
    assert slots[1].used_at == 5.0
    assert slots[1].shared_by(("tenant", "salt"))
    assert not slots[1].shared_by(("tenant", ""))
    assert sequence.slot is None


def test_nothing_is_left_where_nothing_is_kept() -> None:
    slots = SlotTable(1)
    sequence = new_sequence()
    slots.take(slots[0], sequence)
    sequence.computed = 3
    slots.release(sequence, 0.0, keep=False)
    assert slots[0].cached() == ()


def test_a_held_slot_cannot_be_taken() -> None:
    slots = SlotTable(1)
    slots.take(slots[0], new_sequence())
    with pytest.raises(ValueError, match="is held"):
        slots.take(slots[0], new_sequence())


def test_what_holds_no_slot_cannot_be_released() -> None:
    with pytest.raises(ValueError, match="holds no slot"):
        SlotTable(1).release(new_sequence(), 0.0, keep=True)


def test_counts() -> None:
    slots = SlotTable(3)
    slots.take(slots[2], new_sequence())
    assert (len(slots), slots.in_use) == (3, 1)
    assert [slot.index for slot in slots.idle()] == [0, 1]
