"""Holds the sampler of each key of a backend."""

from __future__ import annotations

from llm_serving_engine.backends.sampler import Logits, TokenSampler, all_finite
from llm_serving_engine.scheduler.errors import RequestFailed
from llm_serving_engine.scheduler.step import Open, Output, Run, RunResult

NOT_FINITE = (
    "the model computes NaN or infinite values for this request, so that there is no next token"
)


class KeySamplers:
    """One sampler for each key, from its `Open` to its `Close`."""

    def __init__(self) -> None:
        self._samplers: dict[int, TokenSampler] = {}

    def open(self, opened: Open) -> None:
        """Begin to sample for a key, or begin anew."""
        self._samplers[opened.key] = TokenSampler(opened)

    def close(self, key: int) -> None:
        """Forget a key."""
        self._samplers.pop(key, None)

    def result(self, run: Run, logits: Logits, likeliest: int | None = None) -> RunResult:
        """The result of a run that is computed.

        Args:
            run: Its key is open. Nothing is drawn where it does not ask for that.
            logits: After its last token, of shape (vocabulary,).
            likeliest: The index of the largest, where that is known.

        Returns:
            With an error where the logits are not all numbers, or the sampler failed:
            the caller empties the slot.
        """
        if not run.output & Output.SAMPLE:
            return RunResult(run.key, len(run.tokens))
        if not all_finite(logits):
            return RunResult(run.key, 0, error=NOT_FINITE, code=RequestFailed.LOGITS_NOT_FINITE)
        try:
            return self._drawn(run, logits, likeliest)
        except Exception as error:
            return RunResult(run.key, 0, error=f"the sampler failed: {error}")

    def _drawn(self, run: Run, logits: Logits, likeliest: int | None) -> RunResult:
        done, sampler = len(run.tokens), self._samplers[run.key]
        if likeliest is not None and sampler.plain_greedy:
            token = likeliest
            sampler.accept(token)
        else:
            token = sampler.sample(logits)
        if not run.output & Output.LOGPROBS:
            return RunResult(run.key, done, (token,))
        return RunResult(run.key, done, (token,), (sampler.logprobs(logits, token),))
