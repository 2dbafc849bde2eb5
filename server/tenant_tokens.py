"""Counts each tenant's tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from llm_serving_engine.scheduler.sequence import Sequence

TENANTS_MAX = 100


class Tokens(NamedTuple):
    """Tokens of prompts that were computed, and of output."""

    prompt: int = 0
    completion: int = 0

    def plus(self, sequence: Sequence) -> Tokens:
        """With those of one more request."""
        computed = len(sequence.request.prompt) if sequence.first_token_at is not None else 0
        return Tokens(self.prompt + computed, self.completion + len(sequence.output))


class TenantTokens:
    """Sums the tokens of ended requests, for the most recent tenants.

    The tokens of live requests are added at each reading, so nothing is counted per step.
    """

    def __init__(self, tenants_max: int = TENANTS_MAX) -> None:
        self._tenants_max = tenants_max
        # The tenant whose request ended last is the last one.
        self._ended: dict[str, Tokens] = {}

    def ended(self, sequence: Sequence) -> None:
        """Count a request that has ended."""
        tenant = sequence.request.tenant
        self._ended[tenant] = self._ended.pop(tenant, Tokens()).plus(sequence)
        if len(self._ended) > self._tenants_max:
            del self._ended[next(iter(self._ended))]

    def latest(self) -> Iterator[str]:
        """The known tenants, most recent first."""
        return reversed(self._ended)

    def of(self, tenant: str, live: Iterable[Sequence]) -> Tokens:
        """Return a tenant's tokens, including those of its `live` requests so far."""
        tokens = self._ended.get(tenant, Tokens())
        for sequence in live:
            tokens = tokens.plus(sequence)
        return tokens
