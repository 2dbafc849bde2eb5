"""Stores responses, so that later requests can continue them."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_serving_engine.server.service.request import Message

# A tenant's part of the store: one that stores much does not drive out all others.
TENANT_SHARE = 4
# What an entry takes beside its texts, and each message of it.
ENTRY_BYTES = 1000
TURN_BYTES = 200


@dataclass(frozen=True, slots=True)
class Stored:
    """A response, and the whole conversation up to its end.

    The JSON is kept encoded: as objects, it would take several times the memory.

    Attributes:
        tenant: On whose behalf it was made; others cannot see it.
        id: The response's id.
        turns: The messages of all turns, the answer's included; no instructions.
        encoded: The response as it was answered, and the input of its own turn.
        size: In bytes, roughly.
    """

    tenant: str
    id: str
    turns: Sequence[Message]
    encoded: bytes
    size: int

    @classmethod
    def of(
        cls,
        tenant: str,
        response: dict[str, Any],
        turns: Sequence[Message],
        input_items: Sequence[dict[str, Any]],
    ) -> Stored:
        """Make the stored form of a response, with the input of its own turn."""
        encoded = json.dumps([response, input_items]).encode()
        texts = sum(len(turn.content) + len(turn.reasoning) + TURN_BYTES for turn in turns)
        size = len(encoded) + texts + ENTRY_BYTES
        return cls(tenant, response["id"], turns, encoded, size)

    @property
    def response(self) -> Any:
        """The response as it was answered."""
        return json.loads(self.encoded)[0]

    @property
    def input_items(self) -> Any:
        """The input of its own turn."""
        return json.loads(self.encoded)[1]


class ResponseStore:
    """Keeps responses by id; the least recently used ones leave first."""

    def __init__(
        self, bytes_max: int, seconds_max: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep responses.

        Args:
            bytes_max: Of all responses; a tenant's are a quarter of it at most.
            seconds_max: Age at which a response is forgotten.
            clock: Seconds.
        """
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._clock = clock
        # Each with the time when it was stored; the least recently used comes first.
        self._kept: OrderedDict[str, tuple[Stored, float]] = OrderedDict()
        self._tenants: dict[str, _Tenant] = {}
        self._size = 0

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def put(self, stored: Stored) -> bool:
        """Store a response; return False if it alone exceeds the limit."""
        share = self._bytes_max // TENANT_SHARE
        if stored.size > share:
            return False
        while self._kept and self._is_old(next(iter(self._kept))):
            self._remove(next(iter(self._kept)))
        while (tenant := self._tenants.get(stored.tenant)) and tenant.size + stored.size > share:
            self._remove(next(iter(tenant.ids)))
        while self._size + stored.size > self._bytes_max:
            self._remove(next(iter(self._kept)))
        self._kept[stored.id] = (stored, self._clock())
        tenant = self._tenants.setdefault(stored.tenant, _Tenant())
        tenant.ids[stored.id] = None
        tenant.size += stored.size
        self._size += stored.size
        return True

    def get(self, tenant: str, response_id: str) -> Stored | None:
        """Return a tenant's response; None if the id is unknown."""
        stored, _ = self._kept.get(response_id, (None, 0.0))
        if stored is None or stored.tenant != tenant:
            return None
        if self._is_old(response_id):
            self._remove(response_id)
            return None
        self._kept.move_to_end(response_id)
        self._tenants[tenant].ids.move_to_end(response_id)
        return stored

    def remove(self, tenant: str, response_id: str) -> bool:
        """Remove a response; return False if the tenant has none with that id."""
        if self.get(tenant, response_id) is None:
            return False
        self._remove(response_id)
        return True

    def _is_old(self, response_id: str) -> bool:
        _, at = self._kept[response_id]
        return self._clock() - at > self._seconds_max

    def _remove(self, response_id: str) -> None:
        stored, _ = self._kept.pop(response_id)
        tenant = self._tenants[stored.tenant]
        del tenant.ids[response_id]
        tenant.size -= stored.size
        if not tenant.ids:
            del self._tenants[stored.tenant]
        self._size -= stored.size


@dataclass(slots=True)
class _Tenant:
    """A tenant's stored ids, the least recently used first, and their bytes."""

    ids: OrderedDict[str, None] = field(default_factory=OrderedDict)
    size: int = 0
