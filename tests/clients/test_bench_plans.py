"""What the workloads plan to send."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import replace

import pytest

from llm_serving_engine.clients.bench.plan import Gate
from llm_serving_engine.clients.bench.prompts import prompt
from llm_serving_engine.clients.bench.record import Arrival, PhaseRecord, Record
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.workloads import (
    WORKLOADS,
    burst,
    chat,
    churn,
    determinism,
    fairness,
    interference,
    overload,
    priority,
    shared_prefix,
    steady,
)


def requests_of(*phases):
    return [request for phase in phases for lane in phase.lanes for request in lane]


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_plan_is_made_of_its_seed(name):
    plan, settings = WORKLOADS[name].plan, Settings(seed=3, seconds=1)
    assert plan(settings) == plan(settings)
    assert plan(settings) != plan(replace(settings, seed=4))


def test_steady_takes_turns():
    plan = steady.plan(Settings(clients=(1, 3), rounds=2, max_tokens=5))
    assert [(phase.name, phase.requests) for phase in plan] == [
        ("1", 1),
        ("3", 3),
        ("1", 1),
        ("3", 3),
    ]
    requests = [request for phase in plan for lane in phase.lanes for request in lane]
    assert {request.max_tokens for request in requests} == {5}
    assert len({request.prompt.split()[0] for request in requests}) == len(requests)


def test_interference_sends_one_long_prompt_among_streams():
    (only,) = interference.plan(Settings(rounds=1, streams=2, long_words=50, prompt_words=8))
    *running, long = (lane[0] for lane in only.lanes)
    assert [len(request.prompt.split()) for request in running] == [8, 8]
    assert len(long.prompt.split()) == 50
    assert long.after == Gate("running", 16)
    assert {request.until for request in running} == {Gate("long", 4)}


def test_prompts_are_the_same_in_every_run_and_differ_early():
    assert prompt(3, 10) == prompt(3, 10)
    assert prompt(3, 10) != prompt(3, 10, seed=2)
    heads = {tuple(prompt(number, 5).split()[:2]) for number in range(2000)}
    assert len(heads) == 2000
    assert [len(prompt(0, words).split()) for words in (1, 2, 64)] == [1, 2, 64]


def test_shared_prefix_has_a_prefix_for_each_round():
    settings = Settings(rounds=2, clients=(3,), prefix_words=20, prompt_words=5, max_tokens=7)
    plan = shared_prefix.plan(settings)
    assert [(phase.name, phase.requests) for phase in plan] == [("3", 3), ("3", 3)]
    words = [[request.prompt.split() for request in requests_of(phase)] for phase in plan]
    for prompts in words:
        assert {len(prompt) for prompt in prompts} == {25}
        assert len({tuple(prompt[:20]) for prompt in prompts}) == 1
        assert len({tuple(prompt[20:22]) for prompt in prompts}) == 3
    assert words[0][0][:2] != words[1][0][:2]
    assert shared_prefix.plan(Settings())[0].requests == 16


def test_priority_is_idle_first_and_then_overloaded():
    settings = Settings(slots=3, idle_requests=5, seconds=2, max_tokens=6)
    idle, loaded = priority.plan(settings)
    ((*alone,),) = idle.lanes
    *lows, high = loaded.lanes
    assert (idle.seconds, loaded.seconds) == (None, 2)
    assert (len(alone), len(lows), len(high)) == (5, 12, 20)
    assert {one.priority for one in (*alone, *high)} == {"high"}
    assert {(one.priority, one.max_tokens) for lane in lows for one in lane} == {("low", 6)}
    assert {one.at for one in high} == {0.2}
    assert len({one.pause for one in (*alone, *high)}) == 25
    prompts = [one.prompt for one in requests_of(idle, loaded)]
    assert len(set(prompts)) == len(prompts)
    assert priority.plan(Settings())[1].seconds == 30


def test_determinism_sends_the_same_twice():
    alone, together = determinism.plan(Settings(requests=200, max_tokens=9, prompt_words=10))
    ((*one_at_a_time,),) = alone.lanes
    at_once = [request for (request,) in together.lanes]
    assert [
        replace(one, cache_salt="", at=other.at)
        for one, other in zip(one_at_a_time, at_once, strict=True)
    ] == at_once
    assert [one.at for one in one_at_a_time] == [0] * 200
    moments = [one.at for one in at_once]
    assert moments == sorted(set(moments))
    assert len({one.cache_salt for one in one_at_a_time}) == 200


def test_determinism_has_requests_of_all_kinds():
    at_once = [request for (request,) in determinism.plan(Settings(max_tokens=9))[1].lanes]
    assert {one.max_tokens for one in at_once} == set(range(1, 10))
    assert {one.priority for one in at_once} == {"low", "normal", "high", "critical"}
    assert {one.temperature for one in at_once} == {0.0, 0.7, 1.0}
    assert len({one.seed for one in at_once}) == 200
    left = [(one, one.until) for one in at_once if one.until is not None]
    assert 20 < len(left) < 60
    assert all(gate.label == one.label for one, gate in left)
    assert all(1 <= gate.tokens <= one.max_tokens for one, gate in left)
    heads = [" ".join(one.prompt.split()[:2]) for one in at_once]
    assert 100 < sum(heads.count(head) > 1 for head in heads) < 140


def test_fairness_has_two_tenants_that_begin_in_turn():
    (only,) = fairness.plan(Settings(slots=4, ratio=3, seconds=1))
    tenants = [lane[0].tenant for lane in only.lanes]
    assert tenants == ["bench-few", "bench-many"] * 4 + ["bench-many"] * 8
    assert {len(lane) for lane in only.lanes} == {10}
    assert all(one.label == one.tenant for one in requests_of(only))
    assert len({one.prompt for one in requests_of(only)}) == 160
    assert fairness.plan(Settings())[0].seconds == 20


def test_churn_has_lengths_of_all_kinds():
    plan = churn.plan(Settings(rounds=2, prompt_words=40, max_tokens=16))
    assert [(phase.name, len(phase.lanes), phase.requests) for phase in plan] == [("8", 8, 48)] * 2
    lengths = {len(one.prompt.split()) for one in requests_of(*plan)}
    tokens = {one.max_tokens for one in requests_of(*plan)}
    assert 5 <= min(lengths) < 15 < 65 < max(lengths) <= 75
    assert 2 <= min(tokens) < 6 < 26 < max(tokens) <= 30
    assert len({one.prompt for one in requests_of(*plan)}) == 96


def test_a_burst_is_all_at_once():
    plan = burst.plan(Settings(rounds=2))
    assert [(len(phase.lanes), phase.requests) for phase in plan] == [(64, 64)] * 2
    assert len({one.prompt for one in requests_of(*plan)}) == 128
    assert {one.at for one in requests_of(*plan)} == {0}


def test_chat_goes_on_after_a_while():
    plan = chat.plan(Settings(rounds=2, conversations=3, turns=4, prompt_words=5, max_tokens=7))
    assert [(phase.name, [len(lane) for lane in phase.lanes]) for phase in plan] == [
        ("3", [4, 4, 4])
    ] * 2
    requests = requests_of(*plan)
    assert [one.label for one in requests[:4]] == ["1", "2", "3", "4"]
    assert [one.continues for one in requests[:4]] == [False, True, True, True]
    assert all(0.5 <= one.pause <= 2 for one in requests if one.continues)
    assert len({one.pause for one in requests}) == len(requests)
    assert len({one.prompt for one in requests}) == len(requests)


def test_overload_comes_in_at_random_at_the_rate():
    (only,) = overload.plan(Settings(rate=50.0, seconds=20, deadline=3.0))
    requests = requests_of(only)
    assert all(len(lane) == 1 for lane in only.lanes)
    assert only.seconds is None
    assert {one.deadline for one in requests} == {3.0}
    moments = [one.at for one in requests]
    assert moments == sorted(set(moments))
    # 1000 are expected, with a standard deviation of 32.
    assert 840 < len(moments) < 1160
    assert max(moments) < 20
    # Of a Poisson process, the gaps deviate by as much as they are long.
    gaps = [after - before for before, after in itertools.pairwise(moments)]
    assert 0.9 < statistics.stdev(gaps) / statistics.mean(gaps) < 1.1
    assert {one.deadline for one in requests_of(*overload.plan(Settings(rate=5.0)))} == {10}


def test_overload_is_twice_what_was_measured_unless_the_rate_is_given():
    settings = Settings(slots=3, max_tokens=4, seconds=5)
    (phase,) = overload.calibration(settings)
    assert (len(phase.lanes), phase.seconds) == (3, 5)
    done = Record("", 0.0, 2.0, (Arrival(1.0, 4), Arrival(2.0, 4)))
    assert overload.calibrated(settings, [PhaseRecord("capacity", (done,))]).rate == 2.0
    given = replace(settings, rate=7.0)
    assert (overload.calibration(given), overload.calibrated(given, [])) == ((), given)
    nothing = PhaseRecord("capacity", (Record("", 0.0, 2.0, (), "UNAVAILABLE"),))
    assert overload.calibrated(settings, [nothing]).rate == overload.RATE_MIN
    later = {one.prompt for one in requests_of(*overload.plan(replace(settings, rate=9.0)))}
    assert not later & {one.prompt for one in requests_of(phase)}
