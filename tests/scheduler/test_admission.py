from __future__ import annotations

from typing import Any

import pytest

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import DeadlinePassed, LimitReached
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.step import Capabilities, SampledToken, StepResult


def new_scheduler(slots: int = 1, **config: Any) -> Scheduler:
    return Scheduler(Capabilities(slots, 4096), SchedulerConfig(**config))


def ask(name: str, prompt: int = 10, max_tokens: int = 10, **more: Any) -> Request:
    return Request(name, tuple(range(prompt)), max_tokens, **more)


def refusal(scheduler: Scheduler, request: Request, now: float = 0.0) -> LimitReached:
    with pytest.raises(LimitReached) as raised:
        scheduler.submit(request, now)
    return raised.value


def test_a_tenants_part_of_the_queue_in_requests() -> None:
    scheduler = new_scheduler(queue_requests_per_tenant_max=2)
    for name in "ab":
        scheduler.submit(ask(name, tenant="t"), 0.0)
    assert refusal(scheduler, ask("c", tenant="t")).subject == "tenant.queue.requests"
    scheduler.submit(ask("c", tenant="u"), 0.0)


def test_a_tenants_part_of_the_queue_in_tokens() -> None:
    scheduler = new_scheduler(queue_tokens_per_tenant_max=40)
    scheduler.submit(ask("a", tenant="t"), 0.0)
    assert refusal(scheduler, ask("b", 11, tenant="t")).subject == "tenant.queue.tokens"
    scheduler.submit(ask("b", 10, tenant="t"), 0.0)


def test_a_quota_is_spent_and_fills_again() -> None:
    scheduler = new_scheduler(tenant_tokens_per_second=10, tenant_tokens_burst=30)
    scheduler.submit(ask("a", tenant="t"), 0.0)
    error = refusal(scheduler, ask("b", tenant="t"))
    assert error.subject == "tenant.tokens"
    assert error.retry_after == pytest.approx(1.0)
    scheduler.submit(ask("other", tenant="u"), 0.0)
    refusal(scheduler, ask("b", tenant="t"), now=0.9)
    scheduler.submit(ask("b", tenant="t"), 1.0)


def test_what_was_not_used_of_a_quota_comes_back() -> None:
    scheduler = new_scheduler(tenant_tokens_per_second=1, tenant_tokens_burst=110)
    scheduler.submit(ask("a", 10, 100, tenant="t", stop_tokens=frozenset({9})), 0.0)
    refusal(scheduler, ask("b", 10, 10, tenant="t"))
    step = scheduler.schedule(0.0)
    scheduler.apply(StepResult(step.number, (SampledToken(0, 9),)), 0.0)
    scheduler.submit(ask("b", 10, 90, tenant="t"), 0.0)


def test_more_than_a_burst_passes_when_the_bucket_is_full() -> None:
    scheduler = new_scheduler(tenant_tokens_per_second=10, tenant_tokens_burst=15)
    scheduler.submit(ask("a", tenant="t"), 0.0)
    assert refusal(scheduler, ask("b", tenant="t")).retry_after == pytest.approx(2.0)


def test_a_deadline_that_cannot_be_met_is_refused_at_once() -> None:
    scheduler = new_scheduler()
    scheduler.submit(ask("fast", deadline=1.0), 0.0)
    # A prompt of 4,000 tokens takes seconds by itself.
    with pytest.raises(DeadlinePassed) as raised:
        scheduler.submit(ask("slow", 4000, deadline=1.0), 0.0)
    assert raised.value.reason == "DEADLINE_UNREACHABLE"
    assert "first token is expected in" in str(raised.value)


def test_a_deadline_is_held_against_those_ahead_of_the_class() -> None:
    scheduler = new_scheduler()
    for number in range(50):
        scheduler.submit(ask(f"{number}", 1000, 100), 0.0)
    scheduler.schedule(0.0)
    with pytest.raises(DeadlinePassed):
        scheduler.submit(ask("normal", deadline=5.0), 0.0)
    scheduler.submit(ask("high", deadline=5.0, priority=Priority.HIGH), 0.0)


def test_an_idle_slot_is_never_too_late() -> None:
    scheduler = new_scheduler(slots=2)
    scheduler.submit(ask("a", 4000, 90), 0.0)
    scheduler.schedule(0.0)
    scheduler.submit(ask("b", 10, deadline=0.2), 0.0)


def test_retry_after_grows_with_the_work_of_those_who_wait() -> None:
    short, long = new_scheduler(queue_requests_max=4), new_scheduler(queue_requests_max=4)
    for number in range(4):
        short.submit(ask(f"{number}", 10, 10), 0.0)
        long.submit(ask(f"{number}", 2000, 500), 0.0)
    after_short = refusal(short, ask("x")).retry_after
    after_long = refusal(long, ask("x")).retry_after
    assert 0.05 <= after_short < after_long <= 60
