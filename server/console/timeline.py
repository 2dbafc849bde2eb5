"""Lives and steps as the page draws them: the same for a running server and for a simulation.

Times are seconds, rounded; a stage is an array, because there are many:
`[state, event, at, slot, taken by, restored at, restored tokens, copied, output tokens]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from llm_serving_engine.server.lives.life import Life, Stage
from llm_serving_engine.server.lives.lives import StepSample

FORMAT = "llm-serving-engine timeline 1"


def life_content(life: Life, offset: float = 0.0) -> dict[str, Any]:
    """A request.

    Args:
        life: The request.
        offset: What to add to the engine's times.
    """
    return {
        "n": life.number,
        "id": life.request_id,
        "class": life.priority.name.lower(),
        "tenant": life.tenant,
        "prompt": life.prompt_tokens,
        "max": life.max_tokens,
        "cached": life.cached_tokens,
        "output": life.output_tokens,
        "error": life.error,
        "stages": [_stage(stage, offset) for stage in life.stages],
        "moves": [[_rounded(at + offset), slot] for at, slot in life.moves],
        "deferrals": [[_rounded(one.at + offset), one.donor] for one in life.deferrals],
    }


def step_content(sample: StepSample, offset: float = 0.0) -> list[float]:
    """A step: when it was done, its seconds, decode rows, and prompt tokens."""
    return [
        _rounded(sample.at + offset),
        _rounded(sample.seconds),
        sample.rows,
        sample.prompt_tokens,
    ]


def timeline_content(
    name: str, slots: int, target: float, lives: Iterable[Life], steps: Iterable[StepSample]
) -> dict[str, Any]:
    """A whole run, as a part of a file that the page loads.

    Args:
        name: What the page calls it.
        slots: How many there are.
        target: Of a step, in seconds.
        lives: All requests.
        steps: All steps, or the last ones.
    """
    return {
        "name": name,
        "slots": slots,
        "target": target,
        "lives": [life_content(life) for life in lives],
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
