"""Logits that are no numbers: the request that has them fails, and no other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from architectures import SPECIAL, write_architecture

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.sampler import all_finite
from llm_serving_engine.backends.slot_samplers import NOT_FINITE, SlotSamplers
from llm_serving_engine.scheduler.errors import RequestFailed
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import (
    ClearSlot,
    DecodeRow,
    OpenSequence,
    PrefillChunk,
    SampledToken,
    SlotFailure,
    Step,
    StepResult,
)

GREEDY = Sampling(temperature=0.0)
DRAWN = Sampling(temperature=1.0, seed=3)
PROMPT = tuple(range(10, 40))
POISONED = (*PROMPT[:10], SPECIAL, *PROMPT[10:])
FAILURE = SlotFailure(1, NOT_FINITE, RequestFailed.LOGITS_NOT_FINITE)
ROW = np.linspace(-5, 5, 300, dtype=np.float32)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
@pytest.mark.parametrize("position", [0, 150, 299])
def test_no_token_is_chosen(value: float, sampling: Sampling, position: int) -> None:
    samplers = SlotSamplers(2)
    samplers.open(OpenSequence(1, sampling, 3))
    row = ROW.copy()
    row[position] = value
    assert samplers.sample(1, row) == FAILURE
    assert samplers.sample(1, row, int(row.argmax())) == FAILURE
    # Its sampler is as it was.
    after = samplers.sample(1, ROW)
    samplers.open(OpenSequence(1, sampling, 3))
    assert samplers.sample(1, ROW) == after


def test_infinities_that_add_up_to_nothing_are_found() -> None:
    row = ROW.copy()
    row[[1, 2]] = math.inf, -math.inf
    assert not all_finite(row)
    assert all_finite(ROW)
    assert all_finite(np.full(200_000, 3e38, np.float32))


@pytest.fixture(
    scope="module",
    params=[
        (architecture, value, flash)
        for architecture in ("llama", "gemma3", "lfm2", "qwen35", "mamba2", "rwkv7")
        for value, flash in ((math.nan, True), (math.nan, False), (math.inf, False))
    ],
    ids=lambda param: f"{param[0]}-{param[1]}-{'flash' if param[2] else 'plain'}",
)
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LlamaCppBackend]:
    architecture, value, flash = request.param
    path = tmp_path_factory.mktemp("models") / "model.gguf"
    write_architecture(path, architecture, special=value)
    config = BackendConfig(
        sequences=3, context_per_sequence=256, threads=1, prefill_chunk=32, flash_attention=flash
    )
    backend = LlamaCppBackend(str(path), config, lambda fraction: None)
    yield backend
    backend.close()


def begin(backend: LlamaCppBackend, *prompts: tuple[int, ...], first: int = 0) -> StepResult:
    """Put prompts into slots of their own, from the slot `first` on."""
    slots = range(first, first + len(prompts))
    return backend.execute(
        Step(
            1,
            tuple(ClearSlot(slot) for slot in slots),
            tuple(OpenSequence(slot, GREEDY, 2) for slot in slots),
            tuple(
                PrefillChunk(slot, 0, tokens, True)
                for slot, tokens in zip(slots, prompts, strict=True)
            ),
        )
    )


def test_the_request_fails_and_its_neighbours_go_on(backend: LlamaCppBackend) -> None:
    (alone,) = begin(backend, PROMPT).tokens
    (after,) = backend.execute(Step(2, decodes=(DecodeRow(0, len(PROMPT), alone.token),))).tokens
    result = begin(backend, PROMPT, POISONED, PROMPT)
    assert result.failures == (FAILURE,)
    assert [(one.slot, one.token) for one in result.tokens] == [(0, alone.token), (2, alone.token)]
    rows = tuple(DecodeRow(slot, len(PROMPT), alone.token) for slot in (0, 2))
    result = backend.execute(Step(3, decodes=rows))
    assert [one.token for one in result.tokens] == [after.token] * 2
    assert not result.failures


def test_the_slot_serves_the_next_request(backend: LlamaCppBackend) -> None:
    (alone,) = begin(backend, PROMPT, first=1).tokens
    assert begin(backend, POISONED, first=1).failures == (FAILURE,)
    assert begin(backend, PROMPT, first=1).tokens == (alone,)
    assert begin(backend, PROMPT, PROMPT, first=1).failures == ()


def test_a_token_can_be_what_makes_it_fail(backend: LlamaCppBackend) -> None:
    begin(backend, PROMPT, PROMPT)
    rows = (DecodeRow(0, len(PROMPT), 7), DecodeRow(1, len(PROMPT), SPECIAL))
    result = backend.execute(Step(2, decodes=rows))
    assert result.failures == (FAILURE,)
    assert [one.slot for one in result.tokens] == [0]
    (sampled,) = result.tokens
    assert isinstance(sampled, SampledToken)
    assert sampled.logprobs is not None
    assert all(math.isfinite(value) for _, value in sampled.logprobs.top)
