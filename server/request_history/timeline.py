"""Request records and steps as the console draws them, of a running server or of a simulation.

Times are seconds, rounded; a stage is an array, because there are many:
`[state, event, at, slot, taken by, restored at, restored tokens, copied, output tokens]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from llm_serving_engine.server.request_history.request_history import StepSample
from llm_serving_engine.server.request_history.request_record import RequestRecord, Stage

FORMAT = "llm-serving-engine timeline 2"


def record_content(record: RequestRecord, offset: float = 0.0) -> dict[str, Any]:
    """Convert a record to JSON values.

    Args:
        record: The record.
        offset: Seconds to add to the engine's times.
    """
    return {
        "n": record.number,
        "id": record.request_id,
        "class": record.priority.name.lower(),
        "tenant": record.tenant,
        "prompt": record.prompt_tokens,
        "max": record.max_tokens,
        "cached": record.cached_tokens,
        "output": record.output_tokens,
        "error": record.error,
        "stages": [_stage(stage, offset) for stage in record.stages],
        "moves": [[_rounded(at + offset), slot] for at, slot in record.moves],
        "deferrals": [[_rounded(one.at + offset), one.donor] for one in record.deferrals],
    }


def step_content(sample: StepSample, offset: float = 0.0) -> list[float]:
    """Convert a step to a list: its end, duration, decode rows, and prompt tokens."""
    return [
        _rounded(sample.at + offset),
        _rounded(sample.seconds),
        sample.rows,
        sample.prompt_tokens,
    ]


def timeline_content(
    name: str,
    slots: int,
    target: float,
    records: Iterable[RequestRecord],
    steps: Iterable[StepSample],
) -> dict[str, Any]:
    """Convert a run to a part of a timeline file.

    Args:
        name: The run's name on the page.
        slots: The number of slots.
        target: The step target, in seconds.
        records: The run's requests.
        steps: Its steps, or the last ones.
    """
    return {
        "name": name,
        "slots": slots,
        "target": target,
        "requests": [record_content(record) for record in records],
        "steps": [step_content(sample) for sample in steps],
    }


def timeline_file(runs: Iterable[dict[str, Any]]) -> str:
    """The text of a file of runs."""
    return json.dumps({"format": FORMAT, "runs": list(runs)}, separators=(",", ":")) + "\n"


def _stage(stage: Stage, offset: float) -> list[Any]:
    content: list[Any] = [
        stage.state.value,
        stage.event.value,
        _rounded(stage.at + offset),
        stage.slot,
        "" if stage.taken_by is None else stage.taken_by.request_id,
        None if stage.restored_at is None else _rounded(stage.restored_at + offset),
        stage.restored_tokens,
        stage.copied,
        stage.output_tokens,
    ]
    return content


def _rounded(seconds: float) -> float:
    return round(seconds, 5)
