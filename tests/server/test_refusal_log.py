"""Lines of refused connections: one per reason and interval, whatever callers do."""

from __future__ import annotations

import logging

import pytest
from raw_http import raw_http
from running_server import HTTP, gated

from llm_serving_engine.server.refusal_log import INTERVAL_SECONDS, RefusalLog
from llm_serving_engine.server.refusals import CONNECTIONS, MALFORMED, WRITE_TIMEOUT


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, dict[str, object]]]:
    return [
        (record.levelname, record.__dict__["fields"])
        for record in caplog.records
        if record.getMessage() == "HTTP refused"
    ]


@pytest.fixture(autouse=True)
def every_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="llm_serving_engine")


def test_one_line_per_reason_and_interval(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = RefusalLog(clock)
    for _ in range(3):
        log.refused(MALFORMED, 400)
        log.refused(CONNECTIONS, 503)
    first = [
        ("INFO", {"reason": "malformed", "status": 400}),
        ("WARNING", {"reason": "connections", "status": 503}),
    ]
    assert lines(caplog) == first
    clock.now += INTERVAL_SECONDS
    log.refused(MALFORMED, 400)
    assert lines(caplog) == [
        *first,
        ("INFO", {"reason": "malformed", "status": 400, "left_out": 2}),
    ]
    clock.now += INTERVAL_SECONDS
    log.refused(MALFORMED, 400)
    assert lines(caplog)[-1] == ("INFO", {"reason": "malformed", "status": 400})


def test_a_refusal_that_is_not_answered_has_no_status(caplog: pytest.LogCaptureFixture) -> None:
    RefusalLog().refused(WRITE_TIMEOUT, 0)
    assert lines(caplog) == [("INFO", {"reason": "write_timeout"})]


async def test_the_listener_logs_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    async with gated(http=HTTP) as server, raw_http(server) as connection:
        connection.writer.write(b"no HTTP at all\r\n\r\n")
        assert "400" in await connection.head()
        counted = server.app.metrics.registry.get_sample_value(
            "llm_serving_engine_http_refused_total", {"reason": MALFORMED}
        )
    assert counted == 1
    assert lines(caplog) == [("INFO", {"reason": "malformed", "status": 400})]
