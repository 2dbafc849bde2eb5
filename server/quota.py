"""Limits the tokens that a tenant may request, with a token bucket."""

from __future__ import annotations

from collections import OrderedDict

from llm_serving_engine.scheduler.errors import LimitReached, RequestError
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Step, StepResult
from llm_serving_engine.server.config import QuotaConfig

RETRY_AFTER_MIN = 0.05


class TenantQuota:
    """An observer that takes the tokens requests reserve, and returns those they did not use.

    There is one bucket for each tenant that has asked lately. A request for more
    than a whole bucket passes when the bucket is full, and leaves it below zero.
    """

    def __init__(self, config: QuotaConfig) -> None:
        self._config = config
        # Tokens that are there, and since when; the tenant that asked longest ago first.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, request: Request, now: float) -> None:
        """Check a request. Raises LimitReached if its tenant's quota is used up."""
        rate = self._config.tokens_per_second
        if not rate:
            return
        needed = min(request.tokens, self._config.burst_tokens) - self._level(request.tenant, now)
        if needed > 0:
            raise LimitReached(
                "tenant.tokens",
                f"the tenant's quota of {rate:g} tokens a second is spent; "
                f"this request asks for {request.tokens}",
                max(needed / rate, RETRY_AFTER_MIN),
            )

    def transitioned(self, sequence: Sequence) -> None:
        """Take the tokens of a new request, or return the unused ones of an ended one."""
        request, now = sequence.request, sequence.since
        if not sequence.has_run and not sequence.state.ended:
            self._put(request.tenant, -request.tokens, now)
        elif sequence.state.ended:
            unused = request.max_tokens - len(sequence.output)
            if sequence.cached_prompt_tokens is None:
                unused += len(request.prompt)
            self._put(request.tenant, unused, now)

    def refused(self, request: Request, error: RequestError) -> None:
        """Take nothing for a request that was refused."""

    def stepped(self, step: Step, result: StepResult) -> None:
        """Take nothing for steps."""

    def _put(self, tenant: str, tokens: int, now: float) -> None:
        if not self._config.tokens_per_second:
            return
        level = min(self._level(tenant, now) + tokens, float(self._config.burst_tokens))
        self._buckets[tenant] = (level, now)
        self._buckets.move_to_end(tenant)
        while len(self._buckets) > self._config.tenants_max:
            self._buckets.popitem(last=False)

    def _level(self, tenant: str, now: float) -> float:
        burst = float(self._config.burst_tokens)
        level, since = self._buckets.get(tenant, (burst, now))
        return min(level + (now - since) * self._config.tokens_per_second, burst)
