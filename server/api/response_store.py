"""Responses that are kept, so that the next request can go on from them."""

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


@dataclass(frozen=True, slots=True)
class Stored:
    """A response, and the whole conversation up to its end.

    Attributes:
        tenant: On whose behalf it was made; others cannot see it.
        response: As it was answered.
        turns: The messages of all turns, the answer's included; no instructions.
        input_items: The input of its own turn, as it was sent.
        size: In bytes, roughly.
        at: When it was stored, in seconds of the store's clock.
    """

    tenant: str
    response: dict[str, Any]
    turns: Sequence[Message]
    input_items: Sequence[dict[str, Any]]
    size: int = 0
    at: float = 0.0


@dataclass(slots=True)
class ResponseStore:
    """Keeps responses by id, the least recently used ones leave first.

    Attributes:
        bytes_max: Of all responses; a tenant's are a quarter of it at most.
        seconds_max: Age at which a response is forgotten.
        clock: Seconds.
    """

    bytes_max: int
    seconds_max: float
    clock: Callable[[], float] = time.monotonic
    _kept: OrderedDict[str, Stored] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _tenant_bytes: dict[str, int] = field(default_factory=dict)

    def put(self, stored: Stored) -> bool:
        """Keep a response; False where it alone is too large to be kept."""
        texts = sum(len(turn.content) + len(turn.reasoning) for turn in stored.turns)
        size = len(json.dumps([stored.response, *stored.input_items])) + texts
        if size > self.bytes_max // TENANT_SHARE:
            return False
        entry = Stored(
            stored.tenant, stored.response, stored.turns, stored.input_items, size, self.clock()
        )
        self._kept[stored.response["id"]] = entry
        self._count(entry, size)
        self._shrink(stored.tenant)
        return True

    def get(self, tenant: str, response_id: str) -> Stored | None:
        """A tenant's response; None where there is none of that id."""
        stored = self._kept.get(response_id)
        if stored is None or stored.tenant != tenant:
            return None
        if self.clock() - stored.at > self.seconds_max:
            self.remove(tenant, response_id)
            return None
        self._kept.move_to_end(response_id)
        return stored

    def remove(self, tenant: str, response_id: str) -> bool:
        """Forget a response; False where there is none of that id."""
        stored = self._kept.get(response_id)
        if stored is None or stored.tenant != tenant:
            return False
        del self._kept[response_id]
        self._count(stored, -stored.size)
        return True

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def _count(self, stored: Stored, size: int) -> None:
        self._bytes += size
        left = self._tenant_bytes.get(stored.tenant, 0) + size
        if left:
            self._tenant_bytes[stored.tenant] = left
        else:
            self._tenant_bytes.pop(stored.tenant, None)

    def _shrink(self, tenant: str) -> None:
        """Forget what is too old, and then the least recently used, until all limits hold."""
        now = self.clock()
        for response_id, stored in list(self._kept.items()):
            over = self._tenant_bytes.get(tenant, 0) > self.bytes_max // TENANT_SHARE
            old = now - stored.at > self.seconds_max
            if old or self._bytes > self.bytes_max or (over and stored.tenant == tenant):
                self.remove(stored.tenant, response_id)
