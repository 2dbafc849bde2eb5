"""The samplers of a backend's slots."""

from __future__ import annotations

from llm_serving_engine.backends.sampler import Logits, TokenSampler, all_finite
from llm_serving_engine.scheduler.errors import RequestFailed
from llm_serving_engine.scheduler.step import OpenSequence, SampledToken, SlotFailure

NOT_FINITE = (
    "the model computes NaN or infinite values for this request, so that there is no next token"
)


class SlotSamplers:
    """One sampler for each slot, from its `OpenSequence` to the next."""

    def __init__(self, slots: int) -> None:
        self._samplers: list[TokenSampler | None] = [None] * slots

    def open(self, opened: OpenSequence) -> None:
        """Begin a sequence's sampling."""
        self._samplers[opened.slot] = TokenSampler(opened)

    def sample(
        self, slot: int, logits: Logits, likeliest: int | None = None
    ) -> SampledToken | SlotFailure:
        """Choose a slot's next token.

        Args:
            slot: One that is open.
            logits: Of shape (vocabulary,).
            likeliest: The index of the largest, where it is known already.

        Returns:
            The token; or the failure of a slot whose logits are not all numbers. The
            caller clears that slot.
        """
        if not all_finite(logits):
            return SlotFailure(slot, NOT_FINITE, RequestFailed.LOGITS_NOT_FINITE)
        sampler = self._samplers[slot]
        assert sampler is not None, f"slot {slot} was never opened"
        if likeliest is not None and sampler.plain_greedy:
            token = likeliest
            sampler.accept(token)
        else:
            token = sampler.sample(logits)
        logprobs = sampler.logprobs(logits, token) if sampler.wants_logprobs else None
        return SampledToken(slot, token, logprobs)
