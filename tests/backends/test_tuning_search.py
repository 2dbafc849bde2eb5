"""The search for settings, among runners whose speed and whose time are made up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import LoadError
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.tuning.contender import Effort, MeasuringFailed
from llm_serving_engine.backends.tuning.decision import (
    ROUNDS_MIN,
    ROUNDS_TO_WIN,
    step_target_seconds,
)
from llm_serving_engine.backends.tuning.reading import Reading
from llm_serving_engine.backends.tuning.search import (
    ROUNDS_MAX,
    Budget,
    Choice,
    Search,
    Tuning,
    TuningError,
)

LOAD_SECONDS = 2.0
SETTINGS = Settings(16, 2048, 2, 64, "f16", True, 0)

Speed = Callable[[Settings], float]


@dataclass
class Workshop:
    """Makes contenders, and keeps the time that they take.

    Attributes:
        speed: How many times faster than the defaults a runner with certain settings is.
        now: The time.
        noise: Factors on the time of one measurement after the other.
    """

    speed: Speed
    now: float = 0.0
    noise: tuple[float, ...] = (1.0,)
    measured: int = 0

    def __post_init__(self) -> None:
        self.made: list[FakeContender] = []

    def make(self, settings: Settings) -> FakeContender:
        self.made.append(FakeContender(self, settings))
        return self.made[-1]

    @property
    def running(self) -> list[Settings]:
        return [one.settings for one in self.made if one.running]


class FakeContender:
    """A runner that takes no time but the workshop's."""

    def __init__(self, workshop: Workshop, settings: Settings) -> None:
        self.settings = settings
        self.running = False
        self.efforts: list[Effort] = []
        self._workshop = workshop

    @property
    def batch_invariant(self) -> bool:
        return self.settings.prefill_chunk == 64

    async def start(self) -> None:
        self.running = True
        self._workshop.now += LOAD_SECONDS

    async def measure(self, effort: Effort) -> Reading:
        assert self.running
        assert len(self._workshop.running) <= 2
        self.efforts.append(effort)
        shop = self._workshop
        noise = shop.noise[shop.measured % len(shop.noise)]
        shop.measured += 1
        factor = noise / shop.speed(self.settings)
        reading = Reading(0.0005 * factor, 0.05 * factor, min(16, self.settings.sequences))
        shop.now += effort.prompt_tokens * reading.prefill_token_seconds
        shop.now += (effort.decode_steps + 1) * reading.decode_step_seconds
        return reading

    async def close(self) -> None:
        self.running = False


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 10**11)
    monkeypatch.setattr(machine, "logical_cores", lambda: 4)


@pytest.fixture
def info(tiny_model_path: Path) -> ModelInfo:
    return replace(ModelInfo.read(tiny_model_path), key_length=32, value_length=32)


def search(info: ModelInfo, workshop: Workshop, seconds: float = 1000, clients: int = 32) -> Search:
    budget = Budget(seconds, lambda: workshop.now)
    return Search(info, SETTINGS, clients, workshop.make, budget)


def choice(tuning: Tuning, name: str) -> Choice:
    return next(one for one in tuning.choices if one.name == name)


async def test_the_defaults_stay_where_nothing_is_faster(info: ModelInfo) -> None:
    workshop = Workshop(lambda settings: 1.0 if settings == SETTINGS else 0.8)
    tuning = await search(info, workshop, clients=16).run()
    assert tuning.settings == SETTINGS
    tried = {one.name: [trial.value for trial in one.trials] for one in tuning.choices}
    assert tried == {
        "threads": [1, 4],
        "kernels": [],
        "sequences": [8],
        "cache_type": ["q8_0"],
        "prefill_chunk": [128, 256, 512],
    }
    assert all(one.left_out == () for one in tuning.choices)
    # The gain is measured per token of output: eight sequences are slower for that, too.
    gains = [trial.gain for one in tuning.choices for trial in one.trials]
    assert max(gains) == pytest.approx(0.8)
    assert tuning.batch_invariant
    assert tuning.reading == Reading(0.0005, 0.05, 16)
    assert tuning.step_target_seconds == step_target_seconds(tuning.reading, 64) == 0.09
    assert workshop.running == []


async def test_the_defaults_are_measured_once_where_that_takes_all_of_the_time(
    info: ModelInfo,
) -> None:
    workshop = Workshop(lambda settings: 0.01)
    tuning = await search(info, workshop, seconds=23).run()
    assert workshop.measured == 1
    assert tuning.settings == SETTINGS
    assert {reason for one in tuning.choices for _, reason in one.left_out} >= {
        "there was no time left"
    }


async def test_each_choice_is_the_ground_for_the_next(info: ModelInfo) -> None:
    def speed(settings: Settings) -> float:
        factor = 1.0
        factor *= 2.0 if settings.threads == 4 else 1.0
        # Only worth it with the threads that were chosen before.
        factor *= 1.5 if settings.cache_type == "q8_0" and settings.threads == 4 else 1.0
        return factor * (1.04 if settings.prefill_chunk == 128 else 1.0)

    workshop = Workshop(speed)
    tuning = await search(info, workshop, clients=16).run()
    assert tuning.settings == replace(SETTINGS, threads=4, cache_type="q8_0")
    assert [trial.gain for trial in choice(tuning, "threads").trials] == pytest.approx([1.0, 2.0])
    assert choice(tuning, "cache_type").trials[0].gain == pytest.approx(1.5)
    # A chunk costs something: 4 % are not enough.
    assert choice(tuning, "prefill_chunk").value == 64
    assert tuning.reading.decode_step_seconds == pytest.approx(0.05 / 3)
    # What was chosen is what the next ones were measured against.
    against = [one.settings for one in workshop.made if len(one.efforts) > ROUNDS_MAX + 1]
    faster = replace(SETTINGS, threads=4)
    assert against[0] == SETTINGS
    assert faster in [one.settings for one in workshop.made]
    assert against[-1] == tuning.settings == replace(faster, cache_type="q8_0")


async def test_more_sequences_make_more_rows(info: ModelInfo) -> None:
    workshop = Workshop(lambda settings: 1.0)
    tuning = await search(info, workshop, clients=32).run()
    assert [trial.value for trial in choice(tuning, "sequences").trials] == [32]
    # The fake runner never does more than 16 rows, so nothing is gained by them.
    assert tuning.settings.sequences == 16


async def test_a_chunk_that_costs_the_same_bits_is_told(info: ModelInfo) -> None:
    workshop = Workshop(lambda settings: 1.3 if settings.prefill_chunk == 256 else 1.0)
    tuning = await search(info, workshop, clients=16).run()
    assert tuning.settings.prefill_chunk == 256
    assert not tuning.batch_invariant
    # All are measured with a prompt that the longest one fills.
    assert max(e.prompt_tokens for one in workshop.made for e in one.efforts) == 512


async def test_noise_is_not_taken_for_gain(info: ModelInfo) -> None:
    noise = (1.0, 1.2, 0.9, 1.1, 0.8, 1.25, 1.0)
    workshop = Workshop(lambda settings: 1.0, noise=noise)
    tuning = await search(info, workshop, clients=16).run()
    assert tuning.settings == SETTINGS


async def test_what_leads_gets_the_rounds_that_it_needs(info: ModelInfo) -> None:
    # The share of the first one ends after its third round.
    workshop = Workshop(lambda settings: 1.1 if settings.threads == 1 else 0.99)
    tuning = await search(info, workshop, seconds=50, clients=16).run()
    assert tuning.settings.threads == 1
    assert len(choice(tuning, "threads").trials[0].ratios) == ROUNDS_TO_WIN
    assert workshop.now <= 50


async def test_both_go_first_in_turns(info: ModelInfo) -> None:
    order: list[Settings] = []

    def speed(settings: Settings) -> float:
        order.append(settings)
        return 1.0

    workshop = Workshop(speed)
    await search(info, workshop, clients=16).run()
    one_thread = replace(SETTINGS, threads=1)
    begin = order.index(one_thread) + 1  # after the one that warms up
    rounds = [order[begin + 2 * i : begin + 2 * i + 2] for i in range(4)]
    both = [one_thread, SETTINGS]
    assert rounds == [both, both[::-1], both, both[::-1]]


@pytest.mark.parametrize("seconds", [5, 10, 20, 40, 80, 160])
async def test_it_ends_in_time_and_says_what_it_left_out(info: ModelInfo, seconds: float) -> None:
    workshop = Workshop(lambda settings: 1.0)
    tuning = await search(info, workshop, seconds).run()
    assert tuning.seconds == workshop.now <= seconds
    for one in tuning.choices:
        assert all(len(trial.ratios) >= ROUNDS_MIN for trial in one.trials)
        assert all("no time" in reason for _, reason in one.left_out)
    looked_at = sum(len(one.trials) + len(one.left_out) for one in tuning.choices)
    assert looked_at == 2 + 1 + 1 + 3
    assert any(one.left_out for one in tuning.choices) is (seconds <= 80)


async def test_what_cannot_be_loaded_is_left_out(
    info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(contender: FakeContender) -> None:
        if contender.settings.cache_type == "q8_0":
            raise LoadError("no such cache")
        contender.running = True

    monkeypatch.setattr(FakeContender, "start", refuse)
    tuning = await search(info, Workshop(lambda settings: 1.0)).run()
    assert choice(tuning, "cache_type").left_out == (("q8_0", "no such cache"),)
    assert choice(tuning, "prefill_chunk").trials


async def test_what_fails_while_it_is_measured_is_left_out(info: ModelInfo) -> None:
    def speed(settings: Settings) -> float:
        if settings.threads == 4:
            raise MeasuringFailed("it died")
        return 1.0

    workshop = Workshop(speed)
    tuning = await search(info, workshop).run()
    assert choice(tuning, "threads").left_out == ((4, "it died"),)
    assert workshop.running == []


async def test_what_hangs_is_left_out(info: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop = Workshop(lambda settings: 1.0)
    start = FakeContender.start

    async def hang(contender: FakeContender) -> None:
        await start(contender)
        if contender.settings.threads == 1:
            await asyncio.Event().wait()

    def make(settings: Settings) -> FakeContender:
        if settings.threads == 1:
            workshop.now = 999.99  # what is left is waited for
        return workshop.make(settings)

    monkeypatch.setattr(FakeContender, "start", hang)
    budget = Budget(1000, lambda: workshop.now)
    tuning = await Search(info, SETTINGS, 16, make, budget).run()
    assert tuning.settings == SETTINGS
    assert [value for value, _ in choice(tuning, "threads").left_out] == [1, 4]
    assert all(one.trials == () for one in tuning.choices)
    assert workshop.running == []


async def test_without_memory_for_two_the_defaults_stay(
    info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "llm_serving_engine.backends.tuning.candidates.room_for_another", lambda *_: False
    )
    tuning = await search(info, Workshop(lambda settings: 1.0)).run()
    assert tuning.settings == SETTINGS
    assert all(one.trials == () for one in tuning.choices)
    assert {reason for one in tuning.choices for _, reason in one.left_out} == {
        "there is not enough memory to load the model twice"
    }
    # The defaults are measured all the same.
    assert tuning.reading == Reading(0.0005, 0.05, 16)


async def test_defaults_that_cannot_be_loaded_are_an_error(
    info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(contender: FakeContender) -> None:
        raise LoadError("not a model")

    monkeypatch.setattr(FakeContender, "start", refuse)
    with pytest.raises(LoadError, match="not a model"):
        await search(info, Workshop(lambda settings: 1.0)).run()


async def test_defaults_that_die_are_an_error(info: ModelInfo) -> None:
    def speed(settings: Settings) -> float:
        raise MeasuringFailed("it died")

    workshop = Workshop(speed)
    with pytest.raises(TuningError, match="it died"):
        await search(info, workshop).run()
    assert workshop.running == []


async def test_no_time_for_the_defaults_is_an_error(
    info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(contender: FakeContender) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(FakeContender, "start", hang)
    with pytest.raises(TuningError, match="within 0 s"):
        await search(info, Workshop(lambda settings: 1.0), seconds=0.01).run()
