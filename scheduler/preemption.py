"""Who loses its slot to whom, and what becomes of its cache."""

from __future__ import annotations

from collections.abc import Iterable

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.cost import CostModel
from llm_serving_engine.scheduler.policy import Policy
from llm_serving_engine.scheduler.sequence import SavedCache, Sequence
from llm_serving_engine.scheduler.step import Capabilities, DropSaved, SaveSlot


class Preemption:
    """Chooses victims, and keeps saved caches within their memory."""

    def __init__(
        self,
        capabilities: Capabilities,
        config: SchedulerConfig,
        cost: CostModel,
        policy: Policy,
    ) -> None:
        self._capabilities = capabilities
        self._config = config
        self._cost = cost
        self._policy = policy
        self._keys = 0
        self._saved: dict[int, int] = {}

    @property
    def saved_tokens(self) -> int:
        """Tokens in saved caches."""
        return sum(self._saved.values())

    @property
    def saved_bytes(self) -> int:
        """Memory of saved caches."""
        return sum(map(self._bytes_of, self._saved.values()))

    def victim(self, waiting: Sequence, running: Iterable[Sequence], now: float) -> Sequence | None:
        """Who gives way to `waiting`: of the lowest class below its own the youngest.

        None where the policy has nobody give way, or all who would have lost a slot before and
        not yet run their share since.
        """
        if not self._config.preemption:
            return None
        below = [
            sequence
            for sequence in running
            if self._policy.preempts(waiting, sequence, now) and self._has_run(sequence)
        ]
        return min(
            below,
            key=lambda s: (s.request.priority, -s.history[-1].at, -s.arrived_at),
            default=None,
        )

    def _has_run(self, sequence: Sequence) -> bool:
        if not sequence.preemptions:
            return True
        produced = len(sequence.output) - sequence.output_on_admission
        return produced >= self._config.preemption_share_tokens

    def save(self, sequence: Sequence) -> SaveSlot | None:
        """Save a victim's cache, where it fits and is cheaper than computing it again."""
        assert sequence.slot is not None
        tokens = sequence.computed
        if not self._capabilities.save_restore or not tokens:
            return None
        room = self._config.saved_cache_bytes_max - self.saved_bytes
        if self._bytes_of(tokens) > room:
            return None
        if self._cost.cost.saves * tokens / 1000 >= self._cost.prefill_seconds(tokens):
            return None
        self._keys += 1
        self._saved[self._keys] = tokens
        sequence.saved = SavedCache(self._keys, tokens)
        return SaveSlot(sequence.slot, self._keys)

    def _bytes_of(self, tokens: int) -> int:
        """Memory of a saved cache of so many tokens."""
        capabilities = self._capabilities
        return tokens * capabilities.cache_bytes_per_token + capabilities.state_bytes

    def tokens_of(self, save: SaveSlot) -> int:
        """How many tokens a save is of."""
        return self._saved[save.key]

    def restored(self, sequence: Sequence) -> None:
        """A sequence's saved cache is in its slot again."""
        if sequence.saved is not None:
            del self._saved[sequence.saved.key]
            sequence.saved = None

    def drop(self, sequence: Sequence) -> DropSaved | None:
        """A sequence that has a saved cache does not need it any more."""
        saved, sequence.saved = sequence.saved, None
        if saved is None:
            return None
        del self._saved[saved.key]
        return DropSaved(saved.key)

    def forget(self) -> None:
        """The runner died, and all that it had saved with it."""
        self._saved.clear()
