"""Under overload, capacity goes to answers in time, and refusals say when to come again."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from overload_traces import Returning, capacity, goodput, goodput_first_come, offered, server

from llm_serving_engine.server.simulator.replay import replay

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


def test_few_answers_are_late_where_outputs_end_early() -> None:
    dice = random.Random(1)
    records = [
        replace(record, output_tokens=dice.randint(1, record.max_tokens))
        for record in offered(2 * capacity(SERVER)[1], 60, 5.0)
    ]
    done = replay(records, "fair", SERVER)
    late = sum(o.state is not None and not o.in_time for o in done.outcomes)
    assert late <= 0.02 * len(records)


@pytest.mark.parametrize("load", [2, 4])
@pytest.mark.parametrize("seconds", [1.0, 20.0])
def test_who_comes_again_when_told_to_is_answered_in_time(load: int, seconds: float) -> None:
    # A burst, or an overload that lasts: of as many requests.
    records = offered(load * capacity(SERVER)[1], 20, 10.0)
    run = Returning([replace(r, at=r.at * seconds / 20) for r in records], SERVER)
    run.run()
    assert len(run.returns) >= 30
    assert len(run.in_time) >= 0.8 * len(run.returns)
