"""Logits that are not finite: their request fails, and no other."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from architectures import SPECIAL, write_architecture
from steps import GREEDY, Tokens, chunk, draw, drawn, opened, row

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.key_samplers import NOT_FINITE, KeySamplers
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.sampler import all_finite
from llm_serving_engine.scheduler.errors import RequestFailed
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import RunResult, Step

DRAWN = Sampling(temperature=1.0, seed=3)
PROMPT = tuple(range(10, 40))
POISONED = (*PROMPT[:10], SPECIAL, *PROMPT[10:])
FAILURE = RunResult(1, 0, error=NOT_FINITE, code=RequestFailed.LOGITS_NOT_FINITE)
ROW = np.linspace(-5, 5, 300, dtype=np.float32)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
@pytest.mark.parametrize("position", [0, 150, 299])
def test_no_token_is_chosen(value: float, sampling: Sampling, position: int) -> None:
    samplers = KeySamplers()
    samplers.open(opened(1, sampling))
    run, logits = row(1, 0, 5), ROW.copy()
    logits[position] = value
    assert samplers.result(run, logits) == FAILURE
    assert samplers.result(run, logits, int(logits.argmax())) == FAILURE
    # Its sampler is as it was.
    after = samplers.result(run, ROW)
    samplers.open(opened(1, sampling))
    assert samplers.result(run, ROW) == after


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


def together(backend: LlamaCppBackend, *prompts: Tokens, first: int = 0) -> tuple[RunResult, ...]:
    """What prompts in slots of their own come to, from the slot `first` on, in one step."""
    numbered = list(enumerate(prompts, first))
    opens = tuple(opened(slot, top=2) for slot, _ in numbered)
    runs = tuple(chunk(slot, prompt) for slot, prompt in numbered)
    return backend.execute(Step(1, opens, runs)).runs


def test_the_request_fails_and_its_neighbours_go_on(backend: LlamaCppBackend) -> None:
    (token, _) = drawn(together(backend, PROMPT)[0])
    ((after, _),) = draw(backend, row(0, len(PROMPT), token))
    first, failed, last = together(backend, PROMPT, POISONED, PROMPT)
    assert failed == FAILURE
    assert drawn(first)[0] == drawn(last)[0] == token
    rows = (row(0, len(PROMPT), token), row(2, len(PROMPT), token))
    assert [one for one, _ in draw(backend, *rows)] == [after] * 2


def test_the_slot_serves_the_next_request(backend: LlamaCppBackend) -> None:
    (alone,) = together(backend, PROMPT, first=1)
    assert together(backend, POISONED, first=1) == (FAILURE,)
    assert together(backend, PROMPT, first=1) == (alone,)
    assert not any(result.error for result in together(backend, PROMPT, PROMPT, first=1))


def test_a_token_can_be_what_makes_it_fail(backend: LlamaCppBackend) -> None:
    together(backend, PROMPT, PROMPT)
    rows = (row(0, len(PROMPT), 7), row(1, len(PROMPT), SPECIAL))
    good, failed = backend.execute(Step(2, (), rows)).runs
    assert failed == FAILURE
    _, logprobs = drawn(good)
    assert logprobs is not None
    assert all(math.isfinite(value) for _, value in logprobs.top)
