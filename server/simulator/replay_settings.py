"""The settings of the simulated server: those of a recording server, or defaults."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.step import Capabilities, Shape
from llm_serving_engine.server.simulator.costs import DEFAULT_COSTS, Costs
from llm_serving_engine.server.simulator.slowdown import EVEN, Slowdown

# A runner like that of the built-in model, a small one.
SMALL = Capabilities(
    slots=8,
    context=4096,
    snapshots=True,
    joins=True,
    batch_invariant=True,
    token_bytes=23_040,
)
_AT_LEAST_ONE = ("slots", "context", "chunk", "call_tokens_max", "tile", "chunk_min")


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """The server that a trace is replayed on.

    Attributes:
        capabilities: The runner's. Without `speeds`, calls of the given costs stand
            for those that a server times when it loads a model.
        costs: What the parts of a step really cost, in seconds. The scheduler
            learns them as it does on a server.
        slowdown: How the machine's speed changes.
        handover_seconds: What each step takes beside its call and its operations.
        config: The scheduler's; its policy is the one that is tried.
    """

    capabilities: Capabilities = SMALL
    costs: Costs = DEFAULT_COSTS
    slowdown: Slowdown = EVEN
    handover_seconds: float = 0.0
    config: SchedulerConfig = field(default_factory=SchedulerConfig)

    def __post_init__(self) -> None:
        """Raise ValueError if a value is out of range."""
        for name in _AT_LEAST_ONE:
            if getattr(self.capabilities, name) < 1:
                raise ValueError(f"{name} is less than 1")
        for name, seconds in (
            *self.costs._asdict().items(),
            ("handover_seconds", self.handover_seconds),
        ):
            if not (math.isfinite(seconds) and seconds >= 0):
                raise ValueError(f"{name} is not a number of seconds")
        self.slowdown.check()
        costs = self.costs
        if not (costs.row_group + costs.row and costs.chunk_group + costs.chunk_token):
            raise ValueError("steps that take no time never end")

    def timed(self) -> Capabilities:
        """The runner's capabilities, with calls that were timed."""
        can, cost = self.capabilities, self.costs.model()
        shapes = [Shape(1, rows, rows, rows / 4) for rows in (1, can.slots)]
        shapes += [Shape(1, 1, tokens, tokens**2 / 2000) for tokens in (32, 64, 128)]
        speeds = tuple((shape, cost.predict(shape)) for shape in shapes)
        return can if can.speeds else can._replace(speeds=speeds)

    def content(self) -> dict[str, Any]:
        """As JSON's types."""
        capabilities = self.capabilities._asdict()
        capabilities["outputs"] = int(self.capabilities.outputs)
        return {
            "capabilities": capabilities,
            "costs": self.costs._asdict(),
            "slowdown": self.slowdown._asdict(),
            "handover_seconds": self.handover_seconds,
            "config": asdict(self.config),
        }


def server_path(trace: Path) -> Path:
    """The file beside a trace that has the server it was recorded on."""
    return trace.with_suffix(".server.json")


def write_settings(path: Path, settings: ReplaySettings) -> None:
    """Write a server to a file. Raises OSError."""
    path.write_text(json.dumps(settings.content(), indent=2) + "\n", encoding="utf-8")


def read_settings(path: Path) -> ReplaySettings:
    """The server of a file.

    Raises:
        ValueError: It makes no sense; the message names the file.
        OSError: The file cannot be read.
    """
    try:
        content = json.loads(path.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is not JSON") from None
    try:
        return TypeAdapter(ReplaySettings).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the server"
        raise ValueError(f"{path}: {where}: {first['msg']}") from None


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
