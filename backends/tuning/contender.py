"""A runner with certain settings, made to work as it would for a server, and timed."""

from __future__ import annotations

import random
import statistics
import time
from dataclasses import replace
from typing import NamedTuple, Protocol

from llm_serving_engine.backends.backend import AUTO, BackendConfig
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.backends.runner import RunnerLost
from llm_serving_engine.backends.tuning.reading import CHAT, MIXES, Mix, Reading
from llm_serving_engine.scheduler.request import Sampling
from llm_serving_engine.scheduler.step import Copy, Open, Operation, Output, Run, Step

# Enough for the longest measured prompt and its steps; a large context takes
# seconds to make, and what is not in use costs no time afterwards.
CONTEXT = 768
DECODE_STEPS_MIN = 2
DECODE_STEPS_MAX = 32
_PROMPT_UNIT = 32
_PROMPT_SHORT = 8


class MeasuringFailed(Exception):
    """The runner died, or refused a step."""


class Effort(NamedTuple):
    """How much one measurement does: prompt tokens, then steps of decode rows."""

    prompt_tokens: int
    decode_steps: int

    @classmethod
    def within(cls, seconds: float, reading: Reading) -> Effort:
        """What takes about that long, half of it for each part, on a runner of that speed."""
        tokens = int(seconds / 2 / max(reading.prefill_token_seconds, 1e-9))
        steps = int(seconds / 2 / max(reading.decode_step_seconds, 1e-9))
        return cls(
            min(max(tokens // _PROMPT_UNIT, 1) * _PROMPT_UNIT, reading.mix.prompt_tokens),
            min(max(steps, DECODE_STEPS_MIN), DECODE_STEPS_MAX),
        )


SMALLEST_EFFORT = Effort(_PROMPT_UNIT, DECODE_STEPS_MIN)


class Contender(Protocol):
    """What can be measured."""

    @property
    def settings(self) -> Settings:
        """What it runs with."""

    @property
    def batch_invariant(self) -> bool:
        """Whether a sequence's bits do not depend on the others."""

    async def start(self) -> None:
        """Load the model. Raises LoadError."""

    async def measure(self, effort: Effort) -> Reading:
        """Do some work, and say how fast it was. Raises MeasuringFailed."""

    async def close(self) -> None:
        """End it."""


class RunnerContender:
    """A runner in a process of its own, as a server's is."""

    def __init__(
        self,
        path: str,
        settings: Settings,
        clients: int,
        vocabulary_size: int,
        mix: Mix = MIXES[CHAT],
    ) -> None:
        """Describe it.

        Args:
            path: The model's file.
            settings: What it runs with; a long context is measured as a shorter one.
            clients: How many are served at the same time.
            vocabulary_size: Tokens are drawn from so many.
            mix: What the clients ask for.
        """
        self.settings = settings
        self._rows = min(clients, settings.sequences)
        self._context = min(settings.context_per_sequence, CONTEXT)
        self._draw = random.Random(0)
        self._vocabulary_size = max(vocabulary_size, 1)
        self._mix = mix
        self._runner = ProcessRunner("llama.cpp", path, self._config())
        self._steps = 0

    @property
    def batch_invariant(self) -> bool:
        """Whether a sequence's bits do not depend on the others."""
        return self._runner.capabilities.batch_invariant

    async def start(self) -> None:
        """Load the model. Raises LoadError."""
        await self._runner.start()

    async def measure(self, effort: Effort) -> Reading:
        """A prompt, then steps with a row for each client that has a slot.

        Raises:
            MeasuringFailed: The runner died, or refused a step.
        """
        steps = effort.decode_steps
        # The prompt, a step that is not measured, and those that are.
        prompt = min(effort.prompt_tokens, self._context - steps - 1)
        slots = range(self._rows)
        await self._execute(tuple(Open(slot, Sampling(seed=slot)) for slot in slots))
        prefill = await self._prefill(0, prompt)
        lengths = await self._fill_the_others(prompt)
        durations = [
            await self._execute(
                runs=tuple(
                    Run(slot, slot, lengths[slot] + step, self._tokens(1), output=Output.SAMPLE)
                    for slot in slots
                )
            )
            for step in range(steps + 1)
        ]
        # The first step pays for the copies.
        return Reading(prefill / prompt, statistics.median(durations[1:]), self._rows, self._mix)

    async def close(self) -> None:
        """End the runner."""
        await self._runner.close()

    async def _fill_the_others(self, prompt: int) -> list[int]:
        """Give every slot something to look at; returns how many tokens each holds."""
        others = range(1, self._rows)
        if self._runner.capabilities.copy and self._runner.capabilities.rollback is None:
            await self._execute(tuple(Copy(0, slot, prompt) for slot in others))
            return [prompt] * self._rows
        # Where nothing can be copied, past tokens are folded into a state: few do as well.
        for slot in others:
            await self._prefill(slot, _PROMPT_SHORT)
        return [prompt, *[_PROMPT_SHORT] * len(others)]

    async def _prefill(self, slot: int, tokens: int) -> float:
        """Seconds that a prompt took, in calls as long as the runner likes them."""
        chunk = self._runner.capabilities.chunk
        seconds = 0.0
        for start in range(0, tokens, chunk):
            known = self._tokens(min(chunk, tokens - start))
            seconds += await self._execute(runs=(Run(slot, slot, start, known),))
        return seconds

    async def _execute(
        self, operations: tuple[Operation, ...] = (), runs: tuple[Run, ...] = ()
    ) -> float:
        """Seconds that a step took, its way to the runner and back included."""
        self._steps += 1
        started = time.perf_counter()
        try:
            result = await self._runner.begin(Step(self._steps, operations, runs))
        except RunnerLost as error:
            raise MeasuringFailed(str(error)) from error
        if result.failed or any(run.error for run in result.runs):
            errors = (run.error for run in result.runs if run.error)
            raise MeasuringFailed(next(errors, "the runner refused an operation"))
        return time.perf_counter() - started

    def _tokens(self, count: int) -> tuple[int, ...]:
        """Tokens at random: experts of a mixture are chosen by them."""
        return tuple(self._draw.randrange(self._vocabulary_size) for _ in range(count))

    def _config(self) -> BackendConfig:
        settings = replace(self.settings, context_per_sequence=self._context)
        return BackendConfig(
            sequences=settings.sequences,
            context_per_sequence=settings.context_per_sequence,
            threads=settings.threads,
            prefill_chunk=settings.prefill_chunk,
            cache_type=settings.cache_type,
            # Measured when the first of them is loaded, and remembered.
            flash_attention=AUTO if settings.flash_attention else False,
            gpu_layers=settings.gpu_layers,
            kernels=settings.kernels,
        )
