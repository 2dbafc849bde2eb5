"""What is left over in slots is worth as much as it was before."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.placement import Placement
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.reuse import FIRST_GUESS, LEAST, ReuseChance
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.slots import SlotTable
from llm_serving_engine.scheduler.step import Capabilities

PROMPT = 500
SLOTS = 4
TURNS = 30


def new_sequence(name: str, prompt: tuple[int, ...]) -> Sequence:
    return Sequence(Request(name, prompt, 200), [Transition(State.WAITING, 0.0)])


def unrelated() -> Iterator[tuple[int, ...]]:
    """Prompts that have nothing in common."""
    return ((number, *range(1, PROMPT)) for number in itertools.count())


def conversation() -> Iterator[tuple[int, ...]]:
    """Prompts of which each begins with the one before it, and then another's."""
    return ((turn % 2, *range(1, PROMPT + turn)) for turn in itertools.count())


def moves_after(
    prompts: Iterator[tuple[int, ...]], turns: int, *, prefix_cache: bool = True
) -> bool:
    """Whether a sequence moves to where something is left over, for dense rows."""
    slots = SlotTable(SLOTS)
    capabilities = Capabilities(SLOTS, 4096, partial_clear=True, prefix_copy=True)
    config = SchedulerConfig(prefix_cache=prefix_cache)
    placement = Placement(slots, capabilities, config, CostModel())
    running = [new_sequence(str(index), (1000 + index,)) for index in (0, 2)]
    for index, sequence in zip((0, 2), running, strict=True):
        slots.take(slots[index], sequence)
    # Both idle slots have something that is fresh.
    for now in range(2 + turns):
        sequence = new_sequence("turn", next(prompts))
        place = placement.place(sequence)
        assert place is not None
        slots.take(place.slot, sequence)
        sequence.computed = len(sequence.request.prompt)
        slots.release(sequence, float(now), keep=True)
    return placement.compaction(running) is not None


def test_at_first_it_may_be_asked_for_again() -> None:
    assert not moves_after(unrelated(), 0)


def test_it_is_worth_nothing_where_no_prefix_is_shared() -> None:
    assert moves_after(unrelated(), 0, prefix_cache=False)


def test_it_is_not_kept_for_long_where_nobody_begins_with_it() -> None:
    assert moves_after(unrelated(), TURNS)


def test_it_is_kept_where_conversations_go_on() -> None:
    assert not moves_after(conversation(), TURNS)


def test_what_is_remembered_of_it_fades() -> None:
    chance = ReuseChance()
    assert chance.value == FIRST_GUESS
    for _ in range(100):
        chance.learn(used=False)
    assert chance.value == LEAST
    for _ in range(20):
        chance.learn(used=True)
    assert 0.8 < chance.value <= 1.0
