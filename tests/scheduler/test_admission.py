from __future__ import annotations

import math
from typing import Any

import pytest
from stepping import answer, run_step

from llm_serving_engine.scheduler.admission import OutputShare
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import DeadlinePassed, LimitReached
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Capabilities, Shape


def new_scheduler(slots: int = 1, **config: Any) -> Scheduler:
    return Scheduler(Capabilities(slots, 4096), SchedulerConfig(**config))


def ask(name: str, prompt: int = 10, max_tokens: int = 10, **more: Any) -> Request:
    start = sum(name.encode()) * 10_000
    return Request(name, tuple(range(start, start + prompt)), max_tokens, **more)


def refusal(scheduler: Scheduler, request: Request, now: float = 0.0) -> LimitReached:
    with pytest.raises(LimitReached) as raised:
        scheduler.submit(request, now)
    return raised.value


def unreachable(scheduler: Scheduler, request: Request, now: float = 0.0) -> DeadlinePassed:
    with pytest.raises(DeadlinePassed) as raised:
        scheduler.submit(request, now)
    assert raised.value.reason == DeadlinePassed.DEADLINE_UNREACHABLE
    return raised.value


def test_a_tenants_share_of_the_queue_in_requests() -> None:
    scheduler = new_scheduler(queue_requests_max=4, tenant_queue_share=0.5)
    for name in "ab":
        scheduler.submit(ask(name, tenant="t"), 0.0)
    assert refusal(scheduler, ask("c", tenant="t")).subject == "tenant.queue.requests"
    scheduler.submit(ask("c", tenant="u"), 0.0)


def test_a_tenants_share_of_the_queue_in_tokens() -> None:
    scheduler = new_scheduler(queue_tokens_max=80, tenant_queue_share=0.5)
    scheduler.submit(ask("a", tenant="t"), 0.0)
    assert refusal(scheduler, ask("b", 11, tenant="t")).subject == "tenant.queue.tokens"
    scheduler.submit(ask("b", 10, tenant="t"), 0.0)


def test_a_small_share_is_one_request_at_least() -> None:
    scheduler = new_scheduler(queue_requests_max=3, tenant_queue_share=0.1)
    scheduler.submit(ask("a", tenant="t"), 0.0)
    refusal(scheduler, ask("b", tenant="t"))


def test_a_higher_class_displaces_the_newest_of_the_lowest() -> None:
    scheduler = new_scheduler(queue_requests_max=3, tenant_queue_share=1.0)
    low, newer = (scheduler.submit(ask(n, priority=Priority.LOW), 0.0) for n in ("l1", "l2"))
    normal = scheduler.submit(ask("normal"), 0.0)
    critical = scheduler.submit(ask("critical", priority=Priority.CRITICAL), 1.0)
    assert newer.state is State.FAILED
    assert isinstance(newer.error, LimitReached)
    assert newer.error.retry_after > 0
    assert [s.state for s in (low, normal, critical)] == [State.WAITING] * 3
    # A class displaces none of its own.
    assert refusal(scheduler, ask("low", priority=Priority.LOW)).subject == "queue.requests"
    scheduler.submit(ask("high", priority=Priority.HIGH), 1.0)
    assert low.state is State.FAILED
    scheduler.submit(ask("high-2", priority=Priority.HIGH), 1.0)
    assert normal.state is State.FAILED
    refusal(scheduler, ask("high-3", priority=Priority.HIGH))


def test_a_full_share_displaces_a_request_of_that_tenant() -> None:
    scheduler = new_scheduler(queue_requests_max=4, tenant_queue_share=0.5)
    own = [scheduler.submit(ask(n, tenant="t", priority=Priority.LOW), 0.0) for n in "ab"]
    other = scheduler.submit(ask("c", tenant="u", priority=Priority.LOW), 1.0)
    scheduler.submit(ask("d", tenant="t", priority=Priority.HIGH), 2.0)
    assert [s.state for s in (*own, other)] == [State.WAITING, State.FAILED, State.WAITING]


def test_nothing_is_displaced_in_vain() -> None:
    scheduler = new_scheduler(queue_tokens_max=100, tenant_queue_share=1.0)
    low = scheduler.submit(ask("low", 10, 10, priority=Priority.LOW), 0.0)
    scheduler.submit(ask("normal", 40, 30), 0.0)
    # Without the LOW one, 30 tokens are free.
    assert refusal(scheduler, ask("high", 21, 10, priority=Priority.HIGH)).subject == "queue.tokens"
    assert not low.state.ended
    scheduler.submit(ask("high", 20, 10, priority=Priority.HIGH), 0.0)
    assert low.state is State.FAILED


def test_a_deadline_is_for_the_whole_answer() -> None:
    scheduler = new_scheduler()
    scheduler.submit(ask("short", 10, 10, deadline=1.0), 0.0)
    # 400 tokens of output take seconds, however short the prompt is.
    error = unreachable(new_scheduler(), ask("long", 10, 400, deadline=1.0))
    assert "the answer is expected in" in str(error)
    late = unreachable(new_scheduler(), ask("late", 10, 10, deadline=8.94e-05))
    assert "the deadline is in less than 0.1 ms" in str(late)
    # No other time would do.
    assert error.retry_after is None
    # And so does a prompt of 4,000 tokens by itself.
    unreachable(new_scheduler(), ask("slow", 4000, deadline=1.0))


def test_a_deadline_is_held_against_what_is_ahead_of_the_class() -> None:
    scheduler = new_scheduler()
    for number in range(50):
        scheduler.submit(ask(f"{number}", 1000, 100), 0.0)
    scheduler.schedule(0.0)
    unreachable(scheduler, ask("normal", deadline=5.0))
    scheduler.submit(ask("high", deadline=5.0, priority=Priority.HIGH), 0.0)


def test_a_tenant_with_nothing_in_the_queue_overtakes_those_that_have_much() -> None:
    scheduler = new_scheduler()
    for number in range(50):
        scheduler.submit(ask(f"{number}", 100, 20, tenant="busy"), 0.0)
    scheduler.schedule(0.0)
    unreachable(scheduler, ask("more", deadline=5.0, tenant="busy"))
    scheduler.submit(ask("other", deadline=5.0, tenant="other"), 0.0)


def test_a_request_with_a_deadline_is_accepted_while_a_slot_is_idle() -> None:
    scheduler = new_scheduler(slots=2)
    scheduler.submit(ask("a", 4000, 90), 0.0)
    scheduler.schedule(0.0)
    scheduler.submit(ask("b", 10, 4, deadline=1.0), 0.0)


def test_costs_of_a_slow_spell_refuse_nothing_on_an_idle_server() -> None:
    scheduler = new_scheduler()
    for _ in range(200):
        scheduler.cost.learn(Shape(1, 1, 1, 0.1), 5.0)
        scheduler.cost.learn(Shape(1, 1, 64, 2.0), 20.0)
    assert scheduler.cost.rows_seconds(1) > 1
    scheduler.submit(ask("a", 10, 10, deadline=2.0), 0.0)


def test_a_request_that_waits_ends_as_soon_as_it_cannot_be_in_time() -> None:
    scheduler = new_scheduler()
    holder = scheduler.submit(ask("holder", 10, 100), 0.0)
    run_step(scheduler)
    late = scheduler.submit(ask("late", 10, 100, deadline=10.0), 0.0)
    latest = scheduler.admission.latest_start(late)
    assert 9 < latest < 10
    run_step(scheduler, now=latest - 0.01)
    assert not late.state.ended
    run_step(scheduler, now=latest)
    assert late.state is State.EXPIRED
    assert isinstance(late.error, DeadlinePassed)
    assert late.error.reason == DeadlinePassed.QUEUE_TIMEOUT
    assert late.error.retry_after is not None
    assert holder.state.running


@pytest.mark.parametrize("others", [False, True])
def test_what_cannot_end_in_time_gives_way_where_others_wait(others: bool) -> None:
    scheduler = new_scheduler()
    hopeless = scheduler.submit(ask("hopeless", 10, 1000, deadline=60.0), 0.0)
    run_step(scheduler)
    if others:
        scheduler.submit(ask("waits"), 1.0)
    run_step(scheduler, now=59.0)
    assert (hopeless.state is State.EXPIRED) is others


def test_the_output_of_a_tenant_is_learned() -> None:
    scheduler = new_scheduler(slots=1)
    for number in range(50):
        brief = ask(f"{number}", 10, 100, tenant="brief", stop_tokens=frozenset({9}))
        for request, tokens in ((brief, (5, 9)), (ask(f"{number}", 10, 1, tenant="long"), (5,))):
            sequence = scheduler.submit(request, 0.0)
            for token in tokens:
                step = scheduler.schedule(0.0)
                assert step is not None
                scheduler.apply(answer(step, token), 0.0)
            assert sequence.state is State.FINISHED
    unreachable(scheduler, ask("long", 10, 1000, deadline=1.0, tenant="long"))
    scheduler.submit(ask("brief", 10, 1000, deadline=1.0, tenant="brief"), 0.0)
    # A tenant that is new is expected to be like the others.
    unreachable(scheduler, ask("new", 10, 1000, deadline=1.0, tenant="new"))


def test_more_than_the_mean_is_expected_where_answers_differ() -> None:
    alike, different = OutputShare(), OutputShare()
    for _ in range(100):
        alike.learn("", 0.5)
        for share in (0.2, 0.8):
            different.learn("", share)
    assert alike.expected("") == pytest.approx(0.5, abs=0.01)
    assert different.expected("") == pytest.approx(0.8, abs=0.05)


def test_retry_after_grows_with_the_work_that_waits() -> None:
    config: dict[str, Any] = {"queue_requests_max": 4, "tenant_queue_share": 1.0}
    short, long = new_scheduler(**config), new_scheduler(**config)
    for number in range(4):
        short.submit(ask(f"{number}", 10, 10), 0.0)
        long.submit(ask(f"{number}", 2000, 500), 0.0)
    after_short = refusal(short, ask("x")).retry_after
    after_long = refusal(long, ask("x")).retry_after
    assert 0.05 <= after_short < after_long <= 60


def test_each_refused_request_gets_a_turn_of_its_own() -> None:
    scheduler = new_scheduler(queue_requests_max=1, tenant_queue_share=1.0)
    scheduler.submit(ask("a", 100, 50, priority=Priority.NORMAL), 0.0)
    first, second = (refusal(scheduler, ask(f"{n}")).retry_after for n in range(2))
    assert second > first
    # What was promised to a lower class does not count.
    low = [refusal(scheduler, ask(f"{n}", priority=Priority.LOW)).retry_after for n in range(9)]
    assert low == sorted(low)
    assert refusal(scheduler, ask("c")).retry_after < low[-1]


def test_a_promise_is_bounded() -> None:
    scheduler = new_scheduler(queue_requests_max=1, tenant_queue_share=1.0)
    scheduler.submit(ask("a", 4000, 90), 0.0)
    promised = [refusal(scheduler, ask(f"{n}")).retry_after for n in range(1000)]
    assert promised[-1] == max(promised) == 600


def run_until_held(deadline: float, **more: Any) -> tuple[Sequence, Sequence]:
    """One that must hurry runs, and another one comes, beside which it would be late."""
    scheduler = new_scheduler(slots=4)
    hurried = scheduler.submit(ask("hurried", 10, 100, deadline=1.7), 0.0)
    for _ in range(10):
        run_step(scheduler)
    other = scheduler.submit(ask("other", 400, 20, deadline=deadline, **more), 0.0)
    run_step(scheduler)
    assert hurried.state.running
    return hurried, other


def test_a_request_is_held_back_where_it_would_make_one_that_runs_late() -> None:
    assert run_until_held(deadline=60.0)[1].state is State.WAITING


def test_a_request_without_a_deadline_is_held_back_for_a_higher_class_only() -> None:
    assert run_until_held(deadline=math.inf)[1].state.running
    assert run_until_held(deadline=math.inf, priority=Priority.LOW)[1].state is State.WAITING


def test_a_higher_class_is_not_held_back_for_a_lower_one() -> None:
    assert run_until_held(deadline=60.0, priority=Priority.HIGH)[1].state.running


def test_a_request_without_a_deadline_does_not_wait_behind_one_that_is_held_back() -> None:
    scheduler = new_scheduler(slots=4)
    scheduler.submit(ask("hurried", 10, 100, deadline=1.7), 0.0)
    for _ in range(10):
        run_step(scheduler)
    held = [scheduler.submit(ask(f"{n}", 400, 20, deadline=60.0), 0.0) for n in range(3)]
    unhurried = scheduler.submit(ask("unhurried"), 0.0)
    run_step(scheduler)
    assert [s.state for s in held] == [State.WAITING] * 3
    assert unhurried.state.running


def test_a_deadline_holds_back_other_tenants_for_one_answer_only() -> None:
    # The short ones of the first tenant would fit beside what runs, and would go on so.
    scheduler = new_scheduler(slots=4)
    first = scheduler.submit(ask("first", 10, 100, deadline=1.7, tenant="hasty"), 0.0)
    for _ in range(10):
        run_step(scheduler)
    other = scheduler.submit(ask("other", 400, 20, deadline=60.0, tenant="other"), 0.0)
    following = [
        scheduler.submit(ask(f"{n}", 2, 2, deadline=60.0, tenant="hasty"), 0.0) for n in range(4)
    ]
    run_step(scheduler)
    assert other.state is State.WAITING
    while other.state is State.WAITING:
        assert [s.state for s in following] == [State.WAITING] * 4
        run_step(scheduler)
    assert first.state in (State.DECODE, State.FINISHED)


@pytest.mark.parametrize(("policy", "barrier"), [("fair", True), ("first_come", False)])
def test_a_higher_class_that_is_held_back_stops_lower_ones_where_classes_count(
    policy: str, barrier: bool
) -> None:
    scheduler = new_scheduler(slots=4, policy=policy)
    scheduler.submit(ask("hurried", 10, 100, deadline=1.7, priority=Priority.CRITICAL), 0.0)
    for _ in range(10):
        run_step(scheduler)
    high = {"priority": Priority.CRITICAL, "deadline": 60.0}
    held = scheduler.submit(ask("held", 400, 20, **high), 0.0)
    low = scheduler.submit(ask("low", 2, 2, priority=Priority.LOW), 0.0)
    run_step(scheduler)
    assert held.state is State.WAITING
    assert (low.state is State.WAITING) is barrier


def test_a_request_is_held_back_while_too_many_run_for_its_own_deadline() -> None:
    scheduler = new_scheduler(slots=4)
    others = [scheduler.submit(ask(f"{n}", 10, 12, deadline=60.0), 0.0) for n in range(2)]
    for _ in range(10):
        run_step(scheduler)
    hurried = scheduler.submit(ask("hurried", 10, 200, deadline=2.0), 0.0)
    run_step(scheduler)
    assert hurried.state is State.WAITING
    for _ in range(5):
        run_step(scheduler)
    assert all(other.state is State.FINISHED for other in others)
    assert hurried.state.running


@pytest.mark.parametrize(("produced", "learned"), [(90, True), (10, False)])
def test_what_runs_out_of_time_teaches_at_least_what_it_produced(
    produced: int, learned: bool
) -> None:
    scheduler = new_scheduler(slots=1)
    sequence = scheduler.submit(ask("a", 10, 100, deadline=1.0), 0.0)
    while len(sequence.output) < produced:
        run_step(scheduler)
    expected = scheduler.admission._share.expected("")
    run_step(scheduler, now=1.0)
    assert sequence.state is State.EXPIRED
    assert (scheduler.admission._share.expected("") > expected) is learned


def test_an_idle_server_does_not_refuse_for_ever_what_may_be_short() -> None:
    scheduler = new_scheduler(slots=1)
    for number in range(200):
        try:
            scheduler.submit(ask(f"{number}", 10, 1000, deadline=1.0), 0.0)
        except DeadlinePassed:
            continue
        break
    assert 1 <= number < 20
