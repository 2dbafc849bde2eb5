from __future__ import annotations

from typing import Any

import pytest

from llm_serving_engine.scheduler.errors import LimitReached
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.server.config import QuotaConfig
from llm_serving_engine.server.quota import TenantQuota


def ask(prompt: int = 10, max_tokens: int = 10, tenant: str = "t") -> Request:
    return Request("id", (1,) * prompt, max_tokens, tenant=tenant)


def quota(rate: float, burst: int, tenants: int = 10) -> TenantQuota:
    return TenantQuota(QuotaConfig(tokens_per_second=rate, burst_tokens=burst, tenants_max=tenants))


def submit(quota: TenantQuota, now: float = 0.0, **fields: Any) -> Sequence:
    request = ask(**fields)
    quota.check(request, now)
    sequence = Sequence(request, 1, [Transition(State.WAITING, now, Event.SUBMIT)])
    quota.transitioned(sequence)
    return sequence


def refused_for(quota: TenantQuota, now: float = 0.0, **fields: Any) -> float:
    with pytest.raises(LimitReached) as raised:
        quota.check(ask(**fields), now)
    assert raised.value.subject == "tenant.tokens"
    return raised.value.retry_after


def test_a_quota_is_spent_and_fills_again() -> None:
    bucket = quota(rate=10, burst=30)
    submit(bucket)
    assert refused_for(bucket) == pytest.approx(1.0)
    submit(bucket, tenant="other")
    refused_for(bucket, now=0.9)
    submit(bucket, now=1.0)


def test_what_was_not_produced_comes_back() -> None:
    bucket = quota(rate=1, burst=110)
    sequence = submit(bucket, prompt=10, max_tokens=100)
    refused_for(bucket)
    sequence.cached_prompt_tokens = 0
    sequence.output = [5]
    sequence.advance(Event.ADMIT, 0.0)
    sequence.advance(Event.FINISH, 0.0)
    bucket.transitioned(sequence)
    submit(bucket, prompt=10, max_tokens=89)
    refused_for(bucket, prompt=1, max_tokens=1)


def test_a_prompt_that_was_never_computed_comes_back_too() -> None:
    bucket = quota(rate=1, burst=110)
    sequence = submit(bucket, prompt=100, max_tokens=10)
    sequence.advance(Event.CANCEL, 0.0)
    bucket.transitioned(sequence)
    submit(bucket, prompt=100, max_tokens=10)


def test_a_preemption_takes_and_gives_nothing() -> None:
    bucket = quota(rate=1, burst=40)
    sequence = submit(bucket)
    for event in (Event.ADMIT, Event.PREEMPT):
        sequence.advance(event, 0.0)
        bucket.transitioned(sequence)
    submit(bucket)
    refused_for(bucket)


def test_more_than_a_burst_passes_when_the_bucket_is_full() -> None:
    bucket = quota(rate=10, burst=15)
    submit(bucket)
    assert refused_for(bucket) == pytest.approx(2.0)


def test_without_a_rate_there_is_no_quota() -> None:
    bucket = quota(rate=0, burst=1)
    for _ in range(100):
        submit(bucket, prompt=10_000)


def test_the_tenant_that_asked_longest_ago_is_forgotten_first() -> None:
    bucket = quota(rate=1, burst=20, tenants=2)
    for tenant in "abc":
        submit(bucket, tenant=tenant)
    submit(bucket, tenant="a")
    refused_for(bucket, tenant="c")
