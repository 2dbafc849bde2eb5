"""Chooses the next token of a sequence from its logits.

Reproducible by construction: the random number for the n-th token of a
sequence depends on the seed and on n alone, so a sequence that moves to
another slot, or to another process, goes on as if nothing had happened.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt

from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import Logprobs, Open

Logits = npt.NDArray[np.float32]
"""One row of logits, of shape (vocabulary,)."""

TokenArray = npt.NDArray[np.intp]

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1
_BLOCK = 64
# A penalty close to 0 must not lead to infinity: differences of logits are to stay numbers.
_PENALISED_MAX = np.float32(1e30)


def uniform(seed: int, index: int) -> float:
    """The `index`-th number of the stream `seed`, uniform in [0, 1).

    SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number
    Generators", 2014), whose n-th output can be had without the ones before.
    """
    z = (seed + (index + 1) * _GOLDEN_GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    z ^= z >> 31
    return float(z >> 11) * 2.0**-53


def all_finite(logits: Logits) -> bool:
    """Whether no logit is NaN or infinite: any that is makes the sum so."""
    with np.errstate(invalid="ignore", over="ignore"):
        return math.isfinite(logits.sum(dtype=np.float64))


class TokenSampler:
    """One sequence's sampler."""

    def __init__(self, opened: Open) -> None:
        self._sampling = opened.sampling
        self._top_logprobs = opened.top_logprobs
        self._index = len(opened.output)
        self._prompt = frozenset(opened.prompt)
        self._output = Counter(opened.output)
        bias = opened.sampling.logit_bias
        self._withheld = np.fromiter(opened.sampling.withheld, np.intp)
        self._bias_tokens = np.fromiter(bias.keys(), np.intp, len(bias))
        self._bias_values = np.fromiter(bias.values(), np.float32, len(bias))

    @property
    def plain_greedy(self) -> bool:
        """Whether the token is just the index of the largest logit."""
        sampling = self._sampling
        adjusted = sampling.penalised or sampling.logit_bias or self._withholds
        return sampling.greedy and not adjusted

    def sample(self, logits: Logits) -> int:
        """Choose a token, and count it as produced."""
        logits = self._adjusted(logits)
        if self._sampling.greedy:
            token = int(logits.argmax())
        else:
            token = draw(logits, self._sampling, uniform(self._sampling.seed, self._index))
        self.accept(token)
        return token

    def accept(self, token: int) -> None:
        """Count a token as produced."""
        self._index += 1
        if self._sampling.penalised:
            self._output[token] += 1

    def logprobs(self, logits: Logits, token: int) -> Logprobs:
        """The log-probabilities of a chosen token and of the most likely ones."""
        normaliser = log_sum_exp(logits)
        count = self._top_logprobs or 0
        top = most_likely(logits, count) if count else ()
        pairs = tuple((int(t), float(logits[t]) - normaliser) for t in top)
        return Logprobs(float(logits[token]) - normaliser, pairs)

    @property
    def _withholds(self) -> bool:
        """Whether some tokens cannot be chosen yet."""
        return self._index < self._sampling.min_tokens and self._withheld.size > 0

    def _adjusted(self, logits: Logits) -> Logits:
        sampling = self._sampling
        if not (sampling.penalised or sampling.logit_bias or self._withholds):
            return logits
        logits = logits.copy()
        if self._bias_tokens.size:
            logits[self._bias_tokens] += self._bias_values
        if sampling.penalised:
            self._penalise(logits)
        if self._withholds:
            logits[self._withheld] = -np.inf
        return logits

    def _penalise(self, logits: Logits) -> None:
        sampling = self._sampling
        if sampling.repetition_penalty != 1.0:
            seen = np.fromiter(self._prompt | self._output.keys(), np.intp)
            values = logits[seen]
            penalty = np.float32(sampling.repetition_penalty)
            with np.errstate(over="ignore"):
                values = np.where(values > 0, values / penalty, values * penalty)
            logits[seen] = values.clip(-_PENALISED_MAX, _PENALISED_MAX)
        if self._output and (sampling.presence_penalty or sampling.frequency_penalty):
            produced = np.fromiter(self._output.keys(), np.intp)
            counts = np.fromiter(self._output.values(), np.float32)
            logits[produced] -= sampling.presence_penalty + sampling.frequency_penalty * counts


def draw(logits: Logits, sampling: Sampling, u: float) -> int:
    """Draw a token by top_k, top_p, min_p, and temperature, in that order.

    Args:
        logits: Of shape (vocabulary,).
        sampling: Not greedy.
        u: In [0, 1): the random number to spend.
    """
    candidates, values = _candidates(logits, sampling)
    # float64 from here on: the sum of 50,000 float32 is off in the fourth digit.
    scaled = np.exp((values.astype(np.float64) - float(values.max())) / sampling.temperature)
    cumulative = scaled.cumsum()
    chosen = int(cumulative.searchsorted(u * cumulative[-1], side="right"))
    return int(candidates[min(chosen, len(candidates) - 1)])


def _candidates(logits: Logits, sampling: Sampling) -> tuple[TokenArray, Logits]:
    """The tokens that truncation leaves, most likely first where it truncates, and their logits."""
    if not 0 < sampling.top_k < logits.size:
        if sampling.top_p >= 1.0 and sampling.min_p <= 0.0:
            return np.arange(logits.size), logits
        return _truncated(logits, log_sum_exp(logits), sampling)
    tokens = most_likely(logits, sampling.top_k)
    values = logits[tokens]
    keep = _kept(values, log_sum_exp(values), sampling)
    return tokens[:keep], values[:keep]


def _truncated(logits: Logits, normaliser: float, sampling: Sampling) -> tuple[TokenArray, Logits]:
    """Truncate without top_k: look at ever more of the most likely tokens until all are seen."""
    count = 512
    while True:
        count = min(count, logits.size)
        tokens = most_likely(logits, count)
        values = logits[tokens]
        keep = _kept(values, normaliser, sampling)
        if keep < count or count == logits.size:
            return tokens[:keep], values[:keep]
        count *= 8


def _kept(values: Logits, normaliser: float, sampling: Sampling) -> int:
    """How many of the descending `values` top_p and min_p leave; at least 1.

    Both leave a run from the start, so the shorter one is what both leave.
    """
    keep = values.size
    if sampling.top_p < 1.0:
        cumulative = np.exp(values.astype(np.float64) - normaliser).cumsum()
        keep = min(keep, int(cumulative.searchsorted(sampling.top_p)) + 1)
    if sampling.min_p > 0.0:
        floor = float(values[0]) + math.log(sampling.min_p)
        keep = min(keep, int(np.count_nonzero(values >= floor)))
    return max(keep, 1)


def most_likely(logits: Logits, count: int) -> TokenArray:
    """The tokens of the `count` largest logits, largest first, ties by token id."""
    tokens = np.flatnonzero(logits >= _floor(logits, count))
    order = np.argsort(-logits[tokens], kind="stable")
    return tokens[order[:count]]


def _floor(logits: Logits, count: int) -> np.float32:
    """A value that at least `count` logits reach, and not many more.

    The count-th largest of the maxima of blocks is such a value, and finding
    it costs a tenth of partitioning a whole vocabulary.
    """
    if count >= logits.size:
        return np.float32(-np.inf)
    blocks = logits.size // _BLOCK
    if count <= blocks:
        logits = logits[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    return np.float32(np.partition(logits, logits.size - count)[logits.size - count])


def log_sum_exp(logits: Logits) -> float:
    """The logarithm of the sum of the exponentials: what turns logits into log-probabilities."""
    peak = float(logits.max())
    return peak + math.log(float(np.exp(logits - np.float32(peak)).sum(dtype=np.float64)))
