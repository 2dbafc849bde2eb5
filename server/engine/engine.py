"""The engine: one asyncio task that carries the scheduler's decisions to a runner."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Several

from llm_serving_engine.backends.runner import Runner, RunnerLost
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import (
    LimitReached,
    RequestError,
    RunnerFailed,
    Unavailable,
)
from llm_serving_engine.scheduler.events import Begun, Moved, SchedulerEvent
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.step import Step, StepResult
from llm_serving_engine.server.engine.observer import Observer
from llm_serving_engine.server.engine.stream import TokenStream

_logger = logging.getLogger(__name__)


class Engine:
    """Runs requests on a runner, step by step.

    All methods belong to the event loop that `run` runs on.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        observers: Several[Observer] = (),
        clock: Callable[[], float] = time.monotonic,
        check: Callable[[Request, float], None] = lambda request, now: None,
    ) -> None:
        """Drive `runner`.

        Args:
            scheduler: Decides.
            runner: Computes.
            observers: Are told.
            clock: Seconds, rising.
            check: Raises RequestError for a request that is not to be taken now.
        """
        self.scheduler = scheduler
        self.clock = clock
        self._runner = runner
        self._check = check
        self._observers = tuple(observers)
        self._streams: dict[int, TokenStream] = {}
        self._work = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._draining = False
        self._runner_lost = False
        self._pending: deque[tuple[Step, asyncio.Future[StepResult]]] = deque()
        # Steps that are done, until the observers are told of them.
        self._done: list[tuple[Step, StepResult]] = []
        self._policy_failure = ""

    # For callers

    def submit(self, request: Request) -> TokenStream:
        """Queue a request; its output arrives on the returned stream.

        Raises:
            RequestError: It cannot be taken: see `Scheduler.submit`, and
                Unavailable while draining.
        """
        try:
            if self._draining:
                raise Unavailable("the server is shutting down")
            self._check(request, self.clock())
            sequence = self.scheduler.submit(request, self.clock())
        except RequestError as error:
            refusal = error
            self._tell(lambda observer: observer.refused(request, refusal))
            raise
        stream = self._streams[sequence.key] = TokenStream(sequence)
        self._quiet.clear()
        self._changed()
        return stream

    def cancel(self, key: int, *, error: RequestError | None = None, expired: bool = False) -> None:
        """Cancel a request, or expire it at its deadline: see `Scheduler.cancel`."""
        self.scheduler.cancel(key, self.clock(), error=error, expired=expired)
        self._changed()

    def finish(self, key: int, output_tokens: int) -> None:
        """End a request whose first `output_tokens` tokens hold a stop sequence."""
        self.scheduler.finish(key, self.clock(), output_tokens)
        self._changed()

    async def drain(self, grace: float) -> None:
        """Refuse new requests, and end those that are still alive after `grace` seconds."""
        self._draining = True
        try:
            await asyncio.wait_for(self._quiet.wait(), grace)
        except asyncio.TimeoutError:
            self._fail_all(Unavailable("the server shut down before the answer was complete"))

    def runner_lost(self) -> None:
        """Handle the death of an idle runner: replace it."""
        self._runner_lost = True
        self._work.set()

    @property
    def tokens_behind(self) -> int:
        """The unread tokens of the slowest reader."""
        # A copy, as this is asked from other threads too.
        return max((stream.buffered for stream in list(self._streams.values())), default=0)

    # The loop

    async def run(self) -> None:
        """Drive the runner until cancelled."""
        try:
            while True:
                await self._turn()
        except Exception:
            # A bug. Every caller is answered all the same.
            self._draining = True
            self._abandon(RequestError("the engine failed"))
            raise

    async def _turn(self) -> None:
        """Apply results that have arrived, send the next steps, and wait for more."""
        self._work.clear()
        if self._runner_lost or not self._take_results():
            await self._recover()
        # The next steps are sent before the events of the last are delivered, so that
        # the runner never waits for text, telemetry, or sockets.
        while len(self._pending) < self._runner.steps_max:
            step = self.scheduler.schedule(self.clock())
            if step is None:
                break
            pending = self._runner.begin(step)
            pending.add_done_callback(lambda _: self._work.set())
            self._pending.append((step, pending))
        self._publish()
        await self._work.wait()

    def _take_results(self) -> bool:
        """Apply the results that have arrived, in order; return False if the runner is lost."""
        while self._pending and self._pending[0][1].done():
            step, pending = self._pending[0]
            try:
                result = pending.result()
            except RunnerLost:
                return False
            self._pending.popleft()
            self.scheduler.apply(result, self.clock())
            if any(run.done for run in result.runs):
                self._done.append((step, result))
        return True

    async def _recover(self) -> None:
        self._runner_lost = False
        pending = [pending for _, pending in self._pending]
        self._pending.clear()
        for one in pending:
            one.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        outside = await self._runner.reap()
        self.scheduler.runner_lost(self.clock(), outside=outside)
        self._publish()
        recovering = asyncio.ensure_future(self._runner.recover())
        try:
            await asyncio.wait({recovering}, timeout=self.scheduler.config.recovery_seconds_max)
            if not recovering.done():
                self._fail_all(RunnerFailed("the model's runner failed and did not come back"))
            await recovering
        finally:
            recovering.cancel()
            # After this, no task starts the runner while it is ended.
            await asyncio.gather(recovering, return_exceptions=True)

    def _changed(self) -> None:
        self._publish()
        number = self.scheduler.recall(self.clock())
        if number is not None:
            self._runner.recall(number)
        self._work.set()

    # Events

    def _publish(self) -> None:
        done, self._done = self._done, []
        for step, result in done:
            self._tell(lambda observer, step=step, result=result: observer.stepped(step, result))  # type: ignore[misc]
        while events := self.scheduler.take_events():
            for event in events:
                self._dispatch(event)
        if self.scheduler.idle:
            self._quiet.set()
        if self.scheduler.policy.failure != self._policy_failure:
            self._policy_failure = self.scheduler.policy.failure
            _logger.error("%s; the default policy decides in its place", self._policy_failure)

    def _dispatch(self, event: SchedulerEvent) -> None:
        stream = self._streams.get(event.sequence.key)
        if isinstance(event, Moved):
            self._moved(event, stream)
        elif stream is None:
            return
        elif isinstance(event, Begun):
            stream.start()
        else:
            stream.put(event)
            self._bound(stream)

    def _moved(self, event: Moved, stream: TokenStream | None) -> None:
        sequence, state = event.sequence, event.transition.state
        if event.transition is sequence.history[-1]:
            self._tell(lambda observer: observer.transitioned(sequence))
        if stream is not None and state.ended:
            del self._streams[sequence.key]
            stream.end()

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        """Call all observers; drop one that raises."""
        for observer in self._observers:
            try:
                tell(observer)
            except Exception:  # noqa: PERF203 - each is told, whatever the one before it did
                name = type(observer).__name__
                _logger.exception("the observer %s failed and is no longer called", name)
                self._observers = tuple(o for o in self._observers if o is not observer)

    def _bound(self, stream: TokenStream) -> None:
        limit = self.scheduler.config.stream_buffer_tokens_max
        if stream.buffered <= limit:
            return
        description = (
            f"the stream was not read: {stream.buffered} tokens wait, the limit is {limit}"
        )
        error = LimitReached(
            "stream.buffer_tokens", description, self.scheduler.admission.retry_after
        )
        self.scheduler.cancel(stream.sequence.key, self.clock(), error=error)

    def _fail_all(self, error: RequestError) -> None:
        now = self.clock()
        for sequence in self.scheduler.live():
            self.scheduler.cancel(sequence.key, now, error=error)
        self._changed()

    def _abandon(self, error: RequestError) -> None:
        """End all streams, in any state of the scheduler."""
        try:
            self._fail_all(error)
        except Exception:
            _logger.exception("the scheduler could not end its requests")
        for stream in self._streams.values():
            stream.sequence.error = stream.sequence.error or error
            stream.end()
        self._streams.clear()
        self._quiet.set()
