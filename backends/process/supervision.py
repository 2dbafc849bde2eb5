"""The limits after which a runner counts as hung, and the delays before its replacement."""

from __future__ import annotations

from dataclasses import dataclass

from llm_serving_engine.scheduler.config import check_numbers
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.step import Step

DELAY_FIRST_SECONDS = 0.1
# A step may take this many times the prediction from the measurements at load:
# long contexts and other processes make it slower.
SLOWDOWN_MAX = 20.0
_MAY_BE_ZERO = frozenset({"restart_grace_seconds"})


@dataclass(frozen=True, slots=True)
class Supervision:
    """The settings for watching and replacing a runner.

    Attributes:
        step_seconds_max: Time of a step after which the runner counts as hung and is replaced.
            If 20 times the time predicted for the step is longer, that is the limit. A shorter
            time detects a hang earlier, but replaces runners that were only delayed.
        load_silence_seconds_max: Time without progress in loading after which the runner counts
            as hung. It must cover a slow disk, and the first computations of a large model.
        restart_delay_seconds_max: The longest delay before a replacement. A lost runner is
            replaced at once; while replacements cannot be loaded, or die before their first
            step is complete, the delay doubles up to this.
        restart_grace_seconds: How long health stays SERVING during a restart, while requests
            wait in the queue. A longer time avoids needless moves of traffic by load balancers,
            but delays necessary ones.
        engine_failures_max: Engines that may fail in a row, each within a minute of its start,
            before the process exits so that its supervisor restarts it. Until then, a failed
            engine is replaced, with a new runner.
    """

    step_seconds_max: float = 30.0
    load_silence_seconds_max: float = 120.0
    restart_delay_seconds_max: float = 30.0
    restart_grace_seconds: float = 15.0
    engine_failures_max: int = 3

    def __post_init__(self) -> None:
        check_numbers(self, _MAY_BE_ZERO)

    def step_seconds(self, step: Step, costs: CostModel) -> float:
        """Return the time limit of a step, from the costs measured at load."""
        return max(self.step_seconds_max, SLOWDOWN_MAX * step.calls * costs.predict(step.shape))


class Backoff:
    """Computes the delays before a lost runner is replaced."""

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision
        self._failures = 0

    def delay(self, *, served: bool) -> float:
        """Return the seconds to wait after a loss.

        Args:
            served: Whether the runner had completed a step. If so, or after the
                first failure in a row, the delay is 0.
        """
        if served:
            self._failures = 0
            return 0.0
        self._failures += 1
        if self._failures == 1:
            return 0.0
        # The exponent is bounded: 2.0**1024 overflows.
        doublings = min(self._failures - 2, 32)
        return min(
            DELAY_FIRST_SECONDS * 2.0**doublings, self._supervision.restart_delay_seconds_max
        )
