"""What the parts of a scheduler have in common."""

from __future__ import annotations

from typing import NamedTuple

from llm_serving_engine.scheduler.cache import Cache
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.events import Totals
from llm_serving_engine.scheduler.policy import Policy
from llm_serving_engine.scheduler.queue import WaitingQueue
from llm_serving_engine.scheduler.step import Capabilities


class Common(NamedTuple):
    """What each part of a scheduler is given.

    Attributes:
        capabilities: The runner's.
        config: Limits and trade-offs.
        cost: What calls and operations take.
        target: The step target, in seconds.
        policy: The order within a class.
        queue: What waits.
        cache: Slots and snapshots.
        totals: Counts what was done.
    """

    capabilities: Capabilities
    config: SchedulerConfig
    cost: CostModel
    target: float
    policy: Policy
    queue: WaitingQueue
    cache: Cache
    totals: Totals


class Part:
    """A part of a scheduler."""

    def __init__(self, common: Common) -> None:
        self._can, self._config, self._cost, self._target = common[:4]
        self._policy, self._queue, self._cache, self._totals = common[4:]
