from __future__ import annotations

import math
from dataclasses import fields

import pytest

from llm_serving_engine.scheduler.config import SchedulerConfig


@pytest.mark.parametrize(
    "field",
    [f.name for f in fields(SchedulerConfig) if "int" in str(f.type) or "float" in str(f.type)],
)
def test_limits_that_make_no_sense_are_refused(field: str) -> None:
    for value in (-1, math.nan):
        with pytest.raises(ValueError, match=field):
            SchedulerConfig(**{field: value})  # type: ignore[arg-type]


def test_a_tenants_share_is_a_part() -> None:
    SchedulerConfig(tenant_queue_share=1.0)
    with pytest.raises(ValueError, match="it is at most 1"):
        SchedulerConfig(tenant_queue_share=1.01)


def test_there_are_few_settings() -> None:
    assert len(fields(SchedulerConfig)) <= 14
