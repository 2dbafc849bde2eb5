"""What can be shared where bits matter, and what is told of tokens that are computed again."""

from __future__ import annotations

import pytest

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.prefix import whole_units
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.step import Capabilities, PrefillChunk, SampledToken, StepResult


@pytest.mark.parametrize(
    ("common", "unit", "prompts", "shared"),
    [
        (100, 1, (120, 90), 100),  # bits do not matter
        (100, 64, (120, 100), 64),  # one whole unit in both
        (200, 64, (250, 100), 64),  # the second unit was decoded in one of them
        (200, 64, (100, 250), 64),
        (200, 64, (120, 100), 192),  # decoded in both
        (63, 64, (120, 100), 0),
    ],
)
def test_whole_units(common: int, unit: int, prompts: tuple[int, int], shared: int) -> None:
    assert whole_units(common, unit, prompts) == shared


def test_a_chunk_tells_what_was_decoded_before() -> None:
    config = SchedulerConfig(prefill_tokens_max=4)
    scheduler = Scheduler(Capabilities(1, 64, prefill_unit=4), config)
    scheduler.submit(Request("a", tuple(range(6)), max_tokens=10), 0.0)
    told: list[PrefillChunk] = []

    def step(token: int) -> None:
        planned = scheduler.schedule(0.0)
        told.extend(planned.prefills)
        sampled = planned.decodes or [c for c in planned.prefills if c.sample]
        tokens = tuple(SampledToken(0, token) for _ in sampled)
        scheduler.apply(StepResult(planned.number, tokens), 0.0)

    for token in (90, 91, 92, 93):
        step(token)
    assert [(c.position, len(c.tokens), c.replayed) for c in told] == [(0, 4, 0), (4, 2, 0)]
    told.clear()
    scheduler.runner_lost(0.0)
    for token in (94, 95, 96):
        step(token)
    # Three tokens had been produced.
    assert [(c.position, len(c.tokens), c.replayed) for c in told] == [
        (0, 4, 0),
        (4, 4, 2),
        (8, 1, 1),
    ]
