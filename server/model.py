"""One model of the server: its vocabulary, its runner, its engine, and their state."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llm_serving_engine.backends import registry
from llm_serving_engine.backends.backend import BackendConfig, LoadError, LoadReport
from llm_serving_engine.backends.models.errors import ModelError, printable
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.process.host import ProcessRunner
from llm_serving_engine.backends.process.runner_loss import LossReason, RunnerLoss
from llm_serving_engine.backends.text.tokenizer import Tokenizer
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import Unavailable
from llm_serving_engine.scheduler.step import Capabilities
from llm_serving_engine.server.config import ServerConfig
from llm_serving_engine.server.default_sampling import default_sampling
from llm_serving_engine.server.engine.engine import Engine
from llm_serving_engine.server.engine.observer import Observer
from llm_serving_engine.server.engine.supervisor import EngineSupervisor
from llm_serving_engine.server.load_estimate import LoadEstimate
from llm_serving_engine.server.model_text import ModelText
from llm_serving_engine.server.quota import TenantQuota
from llm_serving_engine.server.text_executor import TextExecutor

_logger = logging.getLogger(__name__)

# The least retry delay.
RETRY_SECONDS_MIN = 1.0

ObserverFactory = Callable[[Capabilities], tuple[Observer, ...]]


class ModelState(enum.Enum):
    """Whether a model can answer."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    DRAINING = "draining"


class ServedModel:
    """A served model from its load to its end.

    Attributes:
        name: Its name in requests.
        path: Its file.
        state: Whether it can answer.
        default_sampling: The sampling of fields that a request leaves out. It includes
            the file's recommendation once the vocabulary is loaded.
        text_executor: Tokenizes its long prompts.
        on_state: Called after each change of `state` or `serving`.
        on_loss: Called whenever its runner was lost, or could not be replaced.
        on_given_up: Called with the reason, one line, if it can never answer again;
            the process should then end.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        config: ServerConfig,
        make_runner: type[ProcessRunner] = ProcessRunner,
    ) -> None:
        """Describe a model; nothing is loaded yet.

        Args:
            name: Its name in requests.
            path: Its file.
            config: The server's configuration.
            make_runner: The class of its runner.
        """
        self.name = name
        self.state = ModelState.LOADING
        self._state_reason = ""
        self.on_state: Callable[[ServedModel], None] = lambda model: None
        self.on_loss: Callable[[ServedModel, RunnerLoss], None] = lambda model, loss: None
        self.on_given_up: Callable[[str], None] = lambda message: None
        self.backend = registry.choose(config.model.backend, path)
        self.info: ModelInfo | None = None
        self.default_sampling = default_sampling(config.generation, None)
        self.report: LoadReport | None = None
        self.path = path
        self._config = config
        self._text: ModelText | None = None
        self._supervisor: EngineSupervisor | None = None
        self._invariant = config.scheduler.determinism == "batch_invariant"
        self._runner = make_runner(
            self.backend,
            str(path),
            replace(config.model.runner, batch_invariant=self._invariant),
            self._progress,
            self._runner_changed,
            self._runner_idle_loss,
            self._runner_lost,
            config.model.supervision,
        )
        self._retry_at = 0.0
        self._estimate = LoadEstimate()
        self.text_executor = TextExecutor(config.generation)
        # Runs while the runner restarts; what health says changes when it has run out.
        self._grace: asyncio.TimerHandle | None = None
        self._serving = False
        self._accepting = False
        self.on_progress: Callable[[float], None] = lambda fraction: None

    async def load(self, observers: ObserverFactory = lambda capabilities: ()) -> LoadReport:
        """Load the vocabulary and the runner, then accept requests.

        Args:
            observers: Makes the engine's observers from the runner's capabilities.

        Raises:
            LoadError, ModelError: It cannot be loaded. The state is FAILED, and the
                load can be tried again.
        """
        self._estimate.begin()
        survived = asyncio.Event()
        runner: asyncio.Task[LoadReport] | None = None
        try:
            # Code that cannot crash finds most broken files.
            await asyncio.to_thread(registry.check_file, self.backend, self.path)
            runner = asyncio.create_task(self._runner.start(survived.set))
            await _first_of(runner, survived)
            # The vocabulary is read while the runner reads the weights.
            await asyncio.to_thread(self._load_vocabulary)
            report = await runner
            self._estimate.done()
            self._check_determinism(report.capabilities)
            self.report = report
        except Exception as error:
            await self._stop_runner(runner)
            self._enter(ModelState.FAILED, str(error))
            raise
        except asyncio.CancelledError:
            await self._stop_runner(runner)
            raise
        self._supervisor = self._make_supervisor(observers)
        self._supervisor.start(report)
        self._enter(ModelState.READY)
        return report

    def retries_in(self, seconds: float) -> None:
        """Set the delay until the next load, for the retry delays of callers."""
        self._retry_at = time.monotonic() + seconds

    async def drain(self, grace: float) -> None:
        """Refuse new requests, and let running ones finish within `grace` seconds."""
        # By then another server can have replaced this one.
        self.retries_in(grace)
        self._enter(ModelState.DRAINING)
        if self._engine is not None:
            await self._engine.drain(grace)

    async def close(self) -> None:
        """End the engine and the runner."""
        self._end_grace()
        if self._supervisor is not None:
            await self._supervisor.close()
        self.text_executor.close()
        await self._runner.close()

    # What a request needs

    @property
    def engine(self) -> Engine:
        """The engine. Raises Unavailable if the model cannot answer.

        While its runner restarts, it takes requests into the queue.
        """
        if self._engine is None or not self._accepting:
            raise self._unavailable()
        return self._engine

    @property
    def state_reason(self) -> str:
        """The reason for FAILED, or a limitation while READY."""
        if self._engine is None or self.state is not ModelState.READY:
            return self._state_reason
        return self._engine.scheduler.policy.failure

    @property
    def serving(self) -> bool:
        """Whether health reports SERVING, also during a restart within the grace."""
        return self._serving

    @property
    def aliases(self) -> tuple[str, ...]:
        """More names for requests; "*" is a wildcard."""
        return self._config.model.aliases

    @property
    def runner_config(self) -> BackendConfig:
        """The runner's configuration."""
        return self._config.model.runner

    @property
    def loaded_engine(self) -> Engine | None:
        """The engine, even if it refuses requests; None before the load."""
        return self._engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary. Raises Unavailable before it is loaded."""
        return self.text.tokenizer

    @property
    def text(self) -> ModelText:
        """Vocabulary and chat template. Raises Unavailable before they are loaded."""
        if self._text is None:
            raise self._unavailable()
        return self._text

    @property
    def vocabulary_size(self) -> int:
        """Token ids go from 0 to this, exclusive."""
        return self.tokenizer.vocabulary_size

    @property
    def capabilities(self) -> Capabilities:
        """The runner's capabilities. Raises Unavailable before the load."""
        return self.engine.scheduler.capabilities

    @property
    def context_per_sequence(self) -> int:
        """The limit of prompt plus output tokens."""
        return self.capabilities.context

    @property
    def runner_memory_bytes(self) -> int:
        """The runner's resident memory; 0 without a runner."""
        return self._runner.memory_bytes

    @property
    def runner_process_id(self) -> int | None:
        """The runner's process id; None without a process."""
        return self._runner.process_id

    # Inside

    def _check_determinism(self, capabilities: Capabilities) -> None:
        if self._invariant and not capabilities.batch_invariant:
            raise LoadError(
                'scheduler.determinism is "batch_invariant", but on this machine the results of '
                'this model depend on the other requests; use "fast", or its Q4_0 or Q8_0 form'
            )

    def _load_vocabulary(self) -> None:
        factory = registry.load_factory(self.backend)
        tokenizer = factory.load_tokenizer(self.path, self._config.model.runner)
        self._text = ModelText.make(self.name, tokenizer, self._config.model)
        self.info = tokenizer.info
        self.default_sampling = default_sampling(self._config.generation, self.info)

    def _progress(self, fraction: float) -> None:
        self._estimate.progressed(fraction)
        self.on_progress(fraction)

    def _unavailable(self) -> Unavailable:
        wait = max(self._retry_at - time.monotonic(), 0.0)
        if self.state is ModelState.LOADING:
            wait += self._estimate.remaining()
        message = _UNAVAILABLE[self.state].format(name=self.name)
        return Unavailable(message, max(wait, RETRY_SECONDS_MIN))

    def _runner_changed(self, report: LoadReport | None) -> None:
        if report is None:
            self._enter(ModelState.LOADING)
        elif self.state is not ModelState.DRAINING:
            _logger.info("the runner of model %s is back", self.name)
            self._estimate.done()
            self._enter(ModelState.READY)

    def _runner_lost(self, loss: RunnerLoss, delay: float) -> None:
        self.on_loss(self, loss)
        self.retries_in(delay)
        self._estimate.begin()
        if not delay:
            _logger.error(
                "the runner of model %s was lost: %s; starting another", self.name, loss.description
            )
            return
        _logger.error(
            "the runner of model %s was lost again: %s; starting another in %.1f s",
            self.name,
            loss.description,
            delay,
        )
        if loss.reason is LossReason.NOT_LOADED and not loss.outside:
            # The next attempt may fail as well: refuse new requests until one succeeds.
            self._enter(ModelState.FAILED, f"its runner was lost again: {loss.description}")

    def _runner_idle_loss(self) -> None:
        if self._engine is not None:
            self._engine.runner_lost()

    @property
    def _engine(self) -> Engine | None:
        return None if self._supervisor is None else self._supervisor.engine

    def _make_supervisor(self, observers: ObserverFactory) -> EngineSupervisor:
        quota = TenantQuota(self._config.quota)

        def build(report: LoadReport) -> Engine:
            scheduler = Scheduler(report.capabilities, self._config.scheduler)
            watching = (quota, *observers(report.capabilities))
            return Engine(scheduler, self._runner, watching, check=quota.check)

        failures_max = self._config.model.supervision.engine_failures_max
        supervisor = EngineSupervisor(self.name, self._runner, build, failures_max)
        supervisor.on_change = self._engine_changed
        supervisor.on_given_up = lambda message: self.on_given_up(message)
        return supervisor

    def _engine_changed(self) -> None:
        if self._engine is None:
            self._enter(ModelState.FAILED, "its engine failed and is being replaced")
        else:
            self._enter(ModelState.READY)

    async def _stop_runner(self, starting: asyncio.Task[LoadReport] | None) -> None:
        if starting is not None:
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError, LoadError, ModelError):
                await starting
        await self._runner.close()

    def _enter(self, state: ModelState, reason: str = "") -> None:
        if self.state is ModelState.DRAINING:
            return  # the server is shutting down
        # Callers learn the file's name, not its folder.
        shown = printable(reason).replace(printable(str(self.path)), self.path.name)
        self.state, self._state_reason = state, printable(shown)
        if state is ModelState.LOADING and self._serving:
            self._begin_grace()
        elif state is not ModelState.LOADING:
            self._end_grace()
            self._serving = self._accepting = state is ModelState.READY
        self.on_state(self)

    def _begin_grace(self) -> None:
        if self._grace is None:
            seconds = self._config.model.supervision.restart_grace_seconds
            self._grace = asyncio.get_running_loop().call_later(seconds, self._grace_over)

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _grace_over(self) -> None:
        self._grace, self._serving = None, False
        self.on_state(self)


async def _first_of(runner: asyncio.Task[LoadReport], survived: asyncio.Event) -> None:
    """Wait until the runner has read the vocabulary. Raises what its start raises."""
    waiting = asyncio.create_task(survived.wait())
    try:
        await asyncio.wait({runner, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if not survived.is_set():
        runner.result()


_UNAVAILABLE = {
    ModelState.LOADING: "model {name!r} is loading",
    ModelState.READY: "model {name!r} is not ready",
    ModelState.FAILED: "model {name!r} has failed",
    ModelState.DRAINING: "the server is shutting down",
}
