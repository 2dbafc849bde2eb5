"""How many tokens a tenant may ask for: a bucket that fills at a rate."""

from __future__ import annotations

from collections import OrderedDict


class TokenQuota:
    """One bucket per tenant that has asked lately."""

    def __init__(self, per_second: float, burst: int, tenants_max: int) -> None:
        """Fill each bucket by `per_second` up to `burst`; 0 a second is no quota at all."""
        self._per_second = per_second
        self._burst = burst
        self._tenants_max = tenants_max
        # Tokens that are there, and since when; the one asked longest ago first.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def missing_seconds(self, tenant: str, tokens: int, now: float) -> float:
        """Seconds until that many tokens are there; 0 where they are.

        More than a whole bucket is there when the bucket is full: who asks for
        that much pays for it afterwards.
        """
        if not self._per_second:
            return 0.0
        needed = min(tokens, self._burst) - self._level(tenant, now)
        return max(needed / self._per_second, 0.0)

    def take(self, tenant: str, tokens: int, now: float) -> None:
        """Take tokens out, below zero if need be."""
        if not self._per_second:
            return
        self._buckets[tenant] = (self._level(tenant, now) - tokens, now)
        self._buckets.move_to_end(tenant)
        while len(self._buckets) > self._tenants_max:
            self._buckets.popitem(last=False)

    def give(self, tenant: str, tokens: int, now: float) -> None:
        """Put tokens back that were taken and not used."""
        if tenant in self._buckets:
            level = min(self._level(tenant, now) + tokens, float(self._burst))
            self._buckets[tenant] = (level, now)

    def _level(self, tenant: str, now: float) -> float:
        level, since = self._buckets.get(tenant, (float(self._burst), now))
        return min(level + (now - since) * self._per_second, float(self._burst))
