"""Under overload, capacity goes to answers in time, and refusals say when to come again."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from overload_traces import capacity, goodput, goodput_first_come, offered, server

from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.events import Moved, SchedulerEvent
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.server.retry_delay import JITTER
from llm_serving_engine.server.simulator.replay import _Run, replay
from llm_serving_engine.server.simulator.trace import TraceRecord

SERVER = server()


@pytest.mark.parametrize("deadline", [5.0, 10.0, 30.0])
@pytest.mark.parametrize("load", [2, 4])
def test_most_of_the_capacity_is_spent_on_answers_in_time(load: int, deadline: float) -> None:
    tokens, requests = capacity(SERVER)
    records = offered(load * requests, max(20, deadline), deadline)
    done = replay(records, "fair", SERVER)
    assert goodput(done, records) >= 0.85 * tokens
    if deadline < 30:
        assert goodput_first_come(records, SERVER) < 0.5 * tokens
    # Nearly all that cannot be in time are told so at the door.
    late = sum(o.state is not None and not o.in_time for o in done.outcomes)
    assert late <= 0.02 * len(records)


@pytest.mark.parametrize(("deadline", "part"), [(5.0, 0.85), (10.0, 0.95)])
def test_requests_of_all_sizes(deadline: float, part: float) -> None:
    tokens, requests = capacity(SERVER, mixed=True)
    records = offered(4 * requests, 20, deadline, mixed=True)
    assert goodput(replay(records, "fair", SERVER), records) >= part * tokens


class Returning(_Run):
    """Each refused request comes again, once, when it was told to, with as much time."""

    def __init__(self, records: list[TraceRecord]) -> None:
        super().__init__(records, "fair", SERVER)
        self.returned = 0
        self.in_time: Counter[bool] = Counter()
        self._jitter = random.Random(1)

    def refused(self, request: Request, error: RequestError) -> None:
        retry_after = getattr(error, "retry_after", None)
        if retry_after is None or request.cache_salt == "again":
            super().refused(request, error)
            return
        self.returned += 1
        at = self.now + retry_after * self._jitter.uniform(1.0, 1.0 + JITTER)
        remaining = (request.deadline or 0.0) - self.now
        again = replace(request, deadline=at + remaining, cache_salt="again")
        self.submit_at(at, again)

    def heard(self, event: SchedulerEvent) -> None:
        super().heard(event)
        sequence = event.sequence
        ends = isinstance(event, Moved) and event.transition.state is State.FINISHED
        if sequence.request.cache_salt == "again" and ends:
            ended = sequence.history[-1].at
            self.in_time[ended <= (sequence.request.deadline or 0.0)] += 1


@pytest.mark.parametrize("load", [2, 4])
@pytest.mark.parametrize("seconds", [1.0, 20.0])
def test_who_comes_again_when_told_to_is_answered_in_time(load: int, seconds: float) -> None:
    # A burst, or an overload that lasts: of as many requests.
    records = offered(load * capacity(SERVER)[1], 20, 10.0)
    run = Returning([replace(r, at=r.at * seconds / 20) for r in records])
    run.run()
    assert run.returned >= 30
    assert run.in_time[True] >= 0.8 * run.returned
