"""What can be shared where bits matter, and how tokens are cut that are computed again."""

from __future__ import annotations

import pytest
from stepping import new_scheduler, run_step

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.prefix import common_prefix, whole_units
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.step import Capabilities


@pytest.mark.parametrize(
    ("a", "b", "common"), [((), (1,), 0), ((1, 2), (1, 2, 3), 2), ((1, 2, 9), (1, 2, 3), 2)]
)
def test_common_prefix(a: tuple[int, ...], b: tuple[int, ...], common: int) -> None:
    assert common_prefix(a, b) == common_prefix(b, a) == common


@pytest.mark.parametrize(
    ("common", "unit", "prompts", "shared"),
    [
        (100, 1, (120, 90), 100),  # bits do not matter
        (100, 64, (120, 100), 64),  # one whole unit in both
        (200, 64, (250, 100), 64),  # the second unit was decoded in one of them
        (200, 64, (100, 250), 64),
        (200, 64, (120, 100), 64),  # the ends of the prompts are cut differently
        (200, 64, (120, 120), 192),  # cut alike, and decoded in both
        (63, 64, (120, 100), 0),
    ],
)
def test_whole_units(common: int, unit: int, prompts: tuple[int, int], shared: int) -> None:
    assert whole_units(common, unit, prompts) == shared


def test_output_is_computed_again_apart_from_the_prompt() -> None:
    config = SchedulerConfig(determinism="batch_invariant", runner_losses_max=9)
    scheduler = Scheduler(Capabilities(1, 200, chunk=4), config)
    sequence = scheduler.submit(Request("a", tuple(range(6)), max_tokens=100), 0.0)
    while len(sequence.output) < 40:
        run_step(scheduler)
    scheduler.runner_lost(0.0, outside=True)
    runs = [run_step(scheduler).runs[0] for _ in range(5)]
    # Whole chunks of the prompt, its end, and the output in equal parts of at most 32.
    assert [(run.start, len(run.tokens)) for run in runs] == [
        (0, 4),
        (4, 2),
        (6, 20),
        (26, 20),
        (46, 1),
    ]
    assert [bool(run.output) for run in runs] == [False] * 3 + [True] * 2


def test_what_is_shared_ends_at_whole_units_only_where_bits_matter() -> None:
    cached = []
    for determinism in ("fast", "batch_invariant"):
        config = SchedulerConfig(determinism=determinism)
        scheduler = Scheduler(Capabilities(2, 400, chunk=64), config)
        for name in "ab":
            sequence = scheduler.submit(Request(name, (*range(200), ord(name)), 1), 0.0)
            while not sequence.state.ended:
                run_step(scheduler)
        cached.append(sequence.cached_prompt_tokens)
    assert cached == [200, 192]


def told(scheduler: Scheduler, talk: tuple[int, ...], now: float) -> int:
    """How much of a conversation's prompt was in the cache, when its answer is complete."""
    sequence = scheduler.submit(Request("talk", talk, 4), now)
    while not sequence.state.ended:
        run_step(scheduler, now=now)
    return sequence.cached_prompt_tokens or 0


def talks(count: int, tokens: int = 300) -> list[tuple[int, ...]]:
    """Prompts that have nothing in common."""
    return [tuple(range(1000 * n, 1000 * n + tokens)) for n in range(count)]


def test_a_newcomers_row_is_beside_the_others_and_no_conversation_is_lost() -> None:
    scheduler = new_scheduler(slots=16, context=2000, chunk=256)
    for now, talk in enumerate(talks(8)):
        assert told(scheduler, talk, now) == 0
    goes_on = scheduler.submit(Request("talk", (*talks(8)[3], 7, 8), 64), 10.0)
    newcomer = scheduler.submit(Request("other", (9, 9, 9), 64), 10.0)
    while not newcomer.output:
        run_step(scheduler, now=10.0)
    assert (goes_on.slot, newcomer.slot) == (3, 2)
    for talk in talks(8):
        assert told(scheduler, talk, 11.0) >= 299


def test_a_row_moves_and_no_conversation_is_lost() -> None:
    scheduler = new_scheduler(slots=8, context=2000, chunk=256)
    rows = [scheduler.submit(Request("row", (n, n), 900), 0.0) for n in (1, 2, 3)]
    ended = scheduler.submit(Request("talk", talks(1)[0], 4), 0.0)
    while not ended.state.ended:
        run_step(scheduler)
    taken = {row.slot for row in rows}
    assert taken == {0, 1, 2}
    scheduler.cancel(rows[1].key, 1.0)
    while rows[2].slot == 2:
        run_step(scheduler, now=1.0)
    assert {rows[0].slot, rows[2].slot} == {0, 1}
    assert told(scheduler, talks(1)[0], 2.0) == 299


@pytest.mark.parametrize(
    ("ended", "slots"), [((2, 3), [0, 1, 2, 3]), ((1, 2), [2, 3, 4, 5]), ((0,), [1, 2, 3, 4, 5])]
)
def test_a_gap_of_several_slots_is_closed_by_the_fewest_moves(
    ended: tuple[int, ...], slots: list[int]
) -> None:
    scheduler = new_scheduler(slots=8, context=2000, chunk=256)
    rows = [scheduler.submit(Request("row", (n, n), 900), 0.0) for n in range(6)]
    while not all(row.output for row in rows):
        run_step(scheduler)
    for n in ended:
        scheduler.cancel(rows[n].key, 1.0)
    for _ in range(6):
        run_step(scheduler, now=1.0)
    assert sorted(row.slot for row in rows if row.slot is not None) == slots
    assert scheduler.totals.moves == sum(row.slot not in (n, None) for n, row in enumerate(rows))


def test_what_was_used_longest_ago_is_lost() -> None:
    scheduler = new_scheduler(slots=4, context=2000, chunk=256)
    for now, talk in enumerate(talks(5)):
        assert told(scheduler, talk, now) == 0
    assert [told(scheduler, talk, 9.0) for talk in talks(5)[:0:-1]] == [299] * 4
    assert told(scheduler, talks(5)[0], 9.0) == 0


@pytest.mark.parametrize(("copy", "slot"), [(True, 1), (False, 0)])
def test_without_copies_a_newcomer_gets_the_slot_that_was_used_longest_ago(
    copy: bool, slot: int
) -> None:
    scheduler = Scheduler(Capabilities(4, 2000, chunk=256, copy=copy))
    for now, talk in enumerate(talks(4)):
        assert told(scheduler, talk, now) == 0
    goes_on = scheduler.submit(Request("talk", (*talks(4)[2], 7, 8), 64), 10.0)
    newcomer = scheduler.submit(Request("other", (9, 9, 9), 64), 10.0)
    while not newcomer.output:
        run_step(scheduler, now=10.0)
    assert (goes_on.slot, newcomer.slot) == (2, slot)
    assert [told(scheduler, talks(4)[n], 11.0) for n in (1, 3, 0)] == [299, 299, 0]


@pytest.mark.parametrize(("tokens", "cached"), [(100, 0), (101, 100)])
def test_what_is_computed_sooner_than_copied_is_not_kept(tokens: int, cached: int) -> None:
    scheduler = new_scheduler(slots=3, context=2000, chunk=256)
    lengths = (300, tokens, 300)
    prompts = [talk[:length] for talk, length in zip(talks(3), lengths, strict=True)]
    for now, talk in enumerate(prompts):
        told(scheduler, talk, now)
    # The slot retains the first three tokens of the output, too.
    seconds = scheduler.cost.prefill_seconds(0, 103, 256)
    scheduler.cost.transfers.weights = [0.0, seconds / 103, 0.0]
    scheduler.submit(Request("talk", (*prompts[2], 7, 8), 64), 10.0)
    newcomer = scheduler.submit(Request("other", (9, 9, 9), 64), 10.0)
    while not newcomer.output:
        run_step(scheduler, now=10.0)
    assert newcomer.slot == 1
    assert told(scheduler, prompts[1], 11.0) == cached
