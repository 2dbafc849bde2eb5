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


def test_a_newcomer_leaves_what_is_retained_where_slots_are_left() -> None:
    scheduler = new_scheduler(slots=16, context=2000, chunk=256)
    talks = [tuple(range(1000 * n, 1000 * n + 300)) for n in range(8)]
    for now, talk in enumerate(talks):
        scheduler.submit(Request("talk", talk, 4), now)
        while not scheduler.idle:
            run_step(scheduler, now=now)
    goes_on = scheduler.submit(Request("talk", (*talks[3], 7, 8), 64), 10.0)
    newcomer = scheduler.submit(Request("other", (9, 9, 9), 64), 10.0)
    while not newcomer.output:
        run_step(scheduler, now=10.0)
    # Its row would be beside the other one in a slot that retains a conversation.
    assert goes_on.slot == 3
    assert newcomer.slot == 8
