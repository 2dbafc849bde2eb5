"""Models of many architectures: in company, after preemption, beside a cancelled neighbour.

Greedy output must be what each request gets alone. The prompts are ones after which no
step is close to a tie, so that rounding cannot choose another token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import steps
from architectures import SPECIAL, write_architecture
from steps import GREEDY, Tokens

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.follow import Follower
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.llama_cpp.part import Part
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Capabilities, shape_of

ATTENTION = (
    "llama", "qwen2", "qwen3", "phi3", "olmo2", "starcoder2", "gpt2", "granite",
    "stablelm", "bloom",
)  # fmt: skip
WINDOW = ("gemma3", "cohere2")
HYBRID = ("lfm2", "granitehybrid", "qwen35", "nemotron_h", "falcon-h1", "jamba")
RECURRENT = ("mamba", "mamba2", "rwkv6", "rwkv7")

SLOTS = 16
REQUESTS = 16
CANDIDATES = 40
OUTPUT = 12
# Of logits: far above what the order of additions changes, far below their spread.
MARGIN = 0.02
CONFIG = BackendConfig(sequences=SLOTS, context_per_sequence=256, threads=1, prefill_chunk=32)
# What llama.cpp writes beside the state itself.
STATE_HEADER_BYTES = 256


@dataclass
class Served:
    """A loaded model, the prompts to ask it, and what each gets alone."""

    path: Path
    architecture: str
    backend: LlamaCppBackend
    prompts: list[Tokens]
    alone: list[Tokens]

    @property
    def capabilities(self) -> Capabilities:
        return self.backend.report.capabilities

    def requests(
        self, numbers: Iterable[int], priority: Priority = Priority.NORMAL
    ) -> list[Request]:
        return [
            Request(str(number), self.prompts[number], OUTPUT, GREEDY, priority=priority)
            for number in numbers
        ]


@pytest.fixture(scope="module", params=(*ATTENTION, *WINDOW, *HYBRID, *RECURRENT))
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    architecture: str = request.param
    path = tmp_path_factory.mktemp("models") / f"{architecture}.gguf"
    write_architecture(path, architecture)
    backend = LlamaCppBackend(str(path), CONFIG, lambda fraction: None)
    decided = [(prompt, found) for prompt in candidates() if (found := alone(backend, prompt))]
    prompts, outputs = zip(*decided[:REQUESTS], strict=True)
    assert len(prompts) == REQUESTS
    yield Served(path, architecture, backend, list(prompts), list(outputs))
    backend.close()


def candidates() -> Iterator[Tokens]:
    """Prompts of many lengths, of which every third begins with a common prefix."""
    random = np.random.default_rng(5)
    shared = random.integers(3, SPECIAL, 40)
    for number in range(CANDIDATES):
        own = random.integers(3, SPECIAL, 7 + 5 * (number % 16))
        tokens = np.concatenate((shared, own)) if number % 3 == 0 else own
        yield tuple(tokens.tolist())


def alone(backend: LlamaCppBackend, prompt: Tokens) -> Tokens:
    """The output of a request that runs by itself; empty where any step was near a tie."""
    output: list[int] = []
    for token, logprobs in steps.alone(backend, 0, prompt, count=OUTPUT):
        assert logprobs is not None
        (_, first), (_, second), *_ = logprobs.top
        if first - second < MARGIN:
            return ()
        output.append(token)
    return tuple(output)


class Requests:
    """Requests through the scheduler, step by step, with what happens at its steps."""

    def __init__(
        self, served: Served, slots: int = SLOTS, config: SchedulerConfig | None = None
    ) -> None:
        # As if prompts took long: then a saved cache is worth its bytes.
        slow = ((shape_of([(0, 0, 32)]), 32.0), (shape_of([(0, 0, 1)]), 1.0))
        self.scheduler = Scheduler(served.capabilities._replace(slots=slots, speeds=slow), config)
        self._follower = Follower(served.backend.execute)
        self._sequences: dict[str, Sequence] = {}
        self._now = 0.0

    def submit(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self._sequences[request.id] = self.scheduler.submit(request, self._now)

    def cancel(self, request_id: str) -> None:
        self.scheduler.cancel(self._sequences[request_id].key, self._now)

    def steps(self, count: int = 100_000) -> None:
        """So many steps, or until all requests have ended."""
        while count and not self.scheduler.idle:
            step = self.scheduler.schedule(self._now)
            assert step is not None
            result = self._follower.execute(step)
            assert not result.failed
            assert not any(run.error for run in result.runs)
            self._now += 0.01
            self.scheduler.apply(result, self._now)
            count -= 1

    def outputs(self) -> dict[int, Tokens]:
        """By number, the output of each request that finished."""
        return {
            int(name): tuple(sequence.output)
            for name, sequence in self._sequences.items()
            if sequence.state is State.FINISHED
        }


def expected(served: Served, numbers: Iterable[int]) -> dict[int, Tokens]:
    return {number: served.alone[number] for number in numbers}


def test_the_cache_is_what_the_architecture_says(served: Served) -> None:
    traits = served.backend._model.cache
    keeps_state = served.architecture in HYBRID + RECURRENT
    assert traits.rollback == (0 if keeps_state else None)
    assert served.capabilities.rollback == traits.rollback
    assert served.capabilities.joins is not keeps_state
    stated = served.capabilities.state_bytes
    assert (stated > 0) is keeps_state
    assert 0 <= traits.state_bytes - stated <= STATE_HEADER_BYTES
    # What is saved of each token beside its keys and values is its position.
    token_bytes = served.capabilities.token_bytes
    assert 0 <= traits.token_bytes - token_bytes <= 64
    assert (token_bytes > 0) is (served.architecture not in RECURRENT)


def test_sixteen_at_once_get_what_each_gets_alone(served: Served) -> None:
    run = Requests(served)
    run.submit(served.requests(range(REQUESTS)))
    run.steps()
    assert run.outputs() == expected(served, range(REQUESTS))


def test_they_do_in_fewer_slots_one_after_the_other(served: Served) -> None:
    run = Requests(served, slots=5)
    run.submit(served.requests(range(REQUESTS)))
    run.steps()
    assert run.outputs() == expected(served, range(REQUESTS))


@pytest.mark.parametrize("saved_bytes", [0, 2**30])
def test_a_preempted_request_goes_on_as_if_nothing_had_been(
    served: Served, saved_bytes: int
) -> None:
    run = Requests(served, 4, SchedulerConfig(snapshot_bytes_max=saved_bytes))
    run.submit(served.requests(range(4), Priority.LOW))
    run.steps(5)
    run.submit(served.requests(range(4, 9), Priority.HIGH))
    run.steps()
    assert run.outputs() == expected(served, range(9))
    assert run.scheduler.totals.preemptions >= 2
    assert bool(run.scheduler.totals.saves) is bool(saved_bytes)


def test_a_cancelled_neighbour_changes_nothing(served: Served) -> None:
    run = Requests(served, slots=8)
    run.submit(served.requests(range(8)))
    run.steps(3)
    run.cancel("2")
    run.cancel("5")
    run.steps(2)
    # These take the slots of the cancelled ones.
    run.submit(served.requests((8, 9)))
    run.steps()
    assert run.outputs() == expected(served, (0, 1, 3, 4, 6, 7, 8, 9))


def test_a_whole_sequence_can_be_copied(served: Served) -> None:
    model = served.backend._model
    prompt = served.prompts[0]
    for slot in range(SLOTS):
        model.clear(slot)
    model.decode([Part(0, 0, prompt, wanted=False)])
    assert model.copy(0, 3, len(prompt))
    rows = (Part(0, len(prompt), (7,)), Part(3, len(prompt), (7,)))
    one, other = (model.decode([row])[0].copy() for row in rows)
    assert np.allclose(one, other, atol=MARGIN)
    # A part of one only where it can be dropped from the copy.
    assert model.copy(0, 4, len(prompt) - 1) is model.cache.unlimited
    assert model.drop_from(3, len(prompt) + 1)
    assert model.drop_from(3, 5) is model.cache.unlimited
    model.clear(3)
    assert model.length(3) == 0


@pytest.mark.parametrize("served", [*ATTENTION, *WINDOW], indirect=True)
def test_fillers_can_be_dropped_from_a_restored_slot(served: Served) -> None:
    model, chunk = served.backend._model, 32
    model.clear(0)
    for start in range(0, 3 * chunk, chunk):
        model.decode([Part(0, start, (7 + start,) * chunk, wanted=False)])
    assert model.restore(3, model.save(0))
    model.decode([Part(3, 3 * chunk, (9, 9), wanted=False)])
    model.drop_fillers(3, 3 * chunk)
    rows = (Part(0, 3 * chunk, (7,)), Part(3, 3 * chunk, (7,)))
    one, other = (model.decode([row])[0].copy() for row in rows)
    assert np.allclose(one, other, atol=MARGIN)
    model.clear(0)
    model.clear(3)


def test_the_header_says_what_the_model_takes(served: Served) -> None:
    report = served.backend.report
    info = ModelInfo.read(served.path)
    assert info.architecture == served.architecture
    sequence_bytes = info.sequence_bytes(report.capabilities.context)
    assert report.memory_bytes["cache"] == SLOTS * sequence_bytes
