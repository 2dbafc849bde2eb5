"""Requests of every kind, sense and nonsense: each ends with a status of the table.

A few hundred here, the same ones each time; 100,000 in tests/endurance.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterator

import pytest
from fuzzing import METHODS, STATUSES, Fuzz, calls, send
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from running_server import RunningServer

from llm_serving_engine.server.telemetry.logs import is_ours

BATCHES = settings(
    max_examples=40,
    derandomize=True,
    database=None,
    deadline=None,
    # No shrinking: what depends on the moment fails another time.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
batches = st.lists(calls(), min_size=10, max_size=10)


class Tracebacks(logging.Handler):
    """Keeps the records that show an exception nobody expected."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and is_ours(record):
            self.records.append(record)


@pytest.fixture(scope="module")
def tracebacks() -> Iterator[list[logging.LogRecord]]:
    # What the tests before left behind tells of its end now.
    gc.collect()
    handler = Tracebacks()
    logging.getLogger().addHandler(handler)
    yield handler.records
    logging.getLogger().removeHandler(handler)


async def send_all(server: RunningServer, batch: list[Fuzz]) -> None:
    ends = await asyncio.gather(*(send(server.channel, fuzz) for fuzz in batch))
    assert [end for end in ends if end.code not in STATUSES] == []
    assert (await server.generate()).usage.completion_tokens == 8


@BATCHES
@given(batch=batches)
async def test_scripted(
    batch: list[Fuzz], scripted: RunningServer, tracebacks: list[logging.LogRecord]
) -> None:
    await send_all(scripted, batch)
    assert tracebacks == []


@BATCHES
@given(batch=batches)
async def test_a_model(
    batch: list[Fuzz], tiny: RunningServer, tracebacks: list[logging.LogRecord]
) -> None:
    runner = tiny.model.runner_process_id
    await send_all(tiny, batch)
    assert tiny.model.runner_process_id == runner
    assert tracebacks == []


def test_every_method_is_there() -> None:
    services = {method.path.split("/")[1] for method in METHODS}
    assert services == {
        "llm_serving_engine.v1.InferenceService",
        "llm_serving_engine.v1.ModelService",
        "llm_serving_engine.v1.OperationsService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
