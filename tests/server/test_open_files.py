"""The limit of open files is raised as far as it may be."""

from __future__ import annotations

import resource

import pytest

from llm_serving_engine.server.open_files import OTHER_FILES, allow_connections

NONE = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "expected", "warned"),
    [
        (1024, 20_000, 4096, 4096 + OTHER_FILES, False),
        (1024, NONE, 4096, 4096 + OTHER_FILES, False),
        (1024, 2048, 4096, 2048, True),
        (NONE, NONE, 4096, NONE, False),
        (4096 + OTHER_FILES, 20_000, 4096, 4096 + OTHER_FILES, False),
        (4095 + OTHER_FILES, 20_000, 4096, 4096 + OTHER_FILES, False),
    ],
)
def test_limits(
    soft: int,
    hard: int,
    connections: int,
    expected: int,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.append(new))
    allow_connections(connections)
    assert limits[-1] == (expected, hard)
    assert bool(caplog.records) == warned


def test_a_system_that_does_not_let(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("not permitted")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, NONE))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    allow_connections(1000)
    (record,) = caplog.records
    assert "256 open files" in record.getMessage()
