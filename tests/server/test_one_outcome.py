"""What callers are told of the end is what log and span say; and callers' text is cut there."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from running_server import RunningServer, error_of, read_all

from llm_serving_engine.server.truncation import TEXT_BYTES_MAX, truncated


def line_of(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (line,) = [record.fields for record in caplog.records if hasattr(record, "fields")]
    found: dict[str, Any] = line
    return found


async def test_a_stop_sequence_in_the_last_token(
    scripted: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    whole = await scripted.generate(max_tokens=8)
    stop = whole.text[-2:]
    assert whole.text.count(stop) == 1
    caplog.set_level(logging.INFO)
    events = await read_all(scripted.stream(max_tokens=8, stop=[stop]))
    told = events[-1].finished
    assert told.finish_reason == 2  # STOP_SEQUENCE
    line = line_of(caplog)
    assert line["finish_reason"] == "stop_sequence"
    assert line["completion_tokens"] == told.usage.completion_tokens == 8
    assert line["queue_seconds"] == pytest.approx(
        told.timings.queue.ToNanoseconds() / 1e9, abs=1e-6
    )


async def test_a_callers_text_is_cut_in_the_log(
    scripted: RunningServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    error = await error_of(scripted.generate(model="m" * 100_000, request_id="r" * 10_000))
    assert len(error.details() or "") < TEXT_BYTES_MAX
    line = line_of(caplog)
    assert len(line["error_message"]) < TEXT_BYTES_MAX
    assert len(line["request_id"]) == 128
    assert sum(len(str(value)) for value in line.values()) < 1500


@pytest.mark.parametrize("character", ["a", "\u20ac", "\N{PILE OF POO}"])
def test_texts_are_cut_at_whole_characters(character: str) -> None:
    for count in (0, 1, 149, 150, 151, 200, 600, 601, 5000):
        text = character * count
        cut = truncated(text)
        if len(text.encode()) <= TEXT_BYTES_MAX:
            assert cut == text
        else:
            assert cut.endswith("...")
            assert set(cut) == {character, "."}
            assert TEXT_BYTES_MAX - 4 < len(cut.encode()) - 3 <= TEXT_BYTES_MAX
