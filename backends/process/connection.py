"""The host's end of a worker's socket, with time limits on its answers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from llm_serving_engine.backends.backend import LoadError, LoadReport
from llm_serving_engine.backends.models.errors import ModelFileError
from llm_serving_engine.backends.process.results import fault_of
from llm_serving_engine.backends.process.runner_loss import LossReason
from llm_serving_engine.backends.process.wire import (
    AbortMessage,
    BrokenMessage,
    FrameReader,
    Loaded,
    LoadFailed,
    Message,
    Progress,
    Recall,
    VocabularyRead,
    encode,
)
from llm_serving_engine.backends.runner import RunnerLost
from llm_serving_engine.scheduler.durations import duration
from llm_serving_engine.scheduler.step import Step, StepResult

# A timer that is so late says that this process was stopped itself.
STOPPED_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Owed:
    """A step whose result has not come, and the seconds within which it should."""

    step: Step
    result: asyncio.Future[StepResult]
    seconds: float

    def fail(self, reason: str) -> None:
        if not self.result.done():
            self.result.set_exception(RunnerLost(reason))
            self.result.exception()  # if no task waits for it


class Connection(asyncio.Protocol):
    """One worker's socket, from its start to its end, and the watch over what it owes.

    Attributes:
        loaded: What loading came to. ModelFileError or LoadError where the
            worker says why it cannot load, RunnerLost where it ended before it
            could say anything.
        served: Whether it has done a step.
        abort_message: What the model's library said before it ended the process.
    """

    def __init__(
        self,
        on_progress: Callable[[float], None],
        on_vocabulary_read: Callable[[], None],
        on_idle_loss: Callable[[], None],
        on_fault: Callable[[LossReason, str], None],
    ) -> None:
        """Make one that is not connected.

        Args:
            on_progress: Told the loaded fraction.
            on_vocabulary_read: Told when the worker has read the vocabulary.
            on_idle_loss: Told when the worker ends that owes nothing.
            on_fault: Told why the worker is of no use any more: what it has
                owed for too long, or what is wrong with what it sent.
        """
        loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[LoadReport] = loop.create_future()
        self._owed: deque[_Owed] = deque()
        self.abort_message: str | None = None
        self._on_progress = on_progress
        self._on_vocabulary_read = on_vocabulary_read
        self._on_idle_loss = on_idle_loss
        self._on_fault = on_fault
        self._load_seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._serving = False
        self.served = False
        self._frames = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._lost = False
        self._broken = False

    def send_load(self, message: Message, seconds: float) -> None:
        """Have a model loaded, with some progress at least every so many seconds."""
        self._load_seconds = seconds
        self._write(message)
        self._watch_loading()

    def send_step(self, step: Step, seconds: float) -> asyncio.Future[StepResult]:
        """Have a step done within some seconds of the one before it.

        Its future raises RunnerLost.
        """
        owed = _Owed(step, asyncio.get_running_loop().create_future(), seconds)
        if self._lost:
            owed.fail("the runner's process has ended")
            return owed.result
        self._write(step)
        self._owed.append(owed)
        if len(self._owed) == 1:
            self._watch_step()
        return owed.result

    def recall(self, number: int) -> None:
        """Ask the worker to return a step. Its result says whether the worker did."""
        if not self._lost and any(owed.step.number == number for owed in self._owed):
            self._write(Recall(number))

    def close(self) -> None:
        """Close the socket; the worker ends when it sees that."""
        self._serving = False
        self._relax()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Expect nothing more of the worker: those that wait get RunnerLost."""
        assert self._transport is not None
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        # A socket's transport; not every event loop's derives from asyncio's class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        if self._broken:
            return
        try:
            for message in self._frames.feed(data):
                self._received(message)
        except BrokenMessage as error:
            self._broken = True
            self._on_fault(LossReason.WRONG_RESULT, str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker's end is closed."""
        self._lost = True
        self._relax()
        if not self.loaded.done():
            self.loaded.set_exception(RunnerLost("the runner's process ended while loading"))
            self.loaded.exception()  # the task that starts the runner may have ended
        elif self._owed:
            where = " in the middle of a message" if self._frames.partial else ""
            for owed in self._owed:
                owed.fail(f"the runner's process ended{where}")
            self._owed.clear()
        elif self._serving:
            self._on_idle_loss()

    def _received(self, message: Message) -> None:
        if isinstance(message, StepResult):
            self._take_result(message)
        elif isinstance(message, Progress):
            self._watch_loading()
            self._on_progress(message.fraction)
        elif isinstance(message, VocabularyRead):
            self._watch_loading()
            self._on_vocabulary_read()
        elif isinstance(message, AbortMessage):
            self.abort_message = message.text
        elif isinstance(message, Loaded) and not self.loaded.done():
            self._relax()
            self._serving = True
            self.loaded.set_result(message.report)
        elif isinstance(message, LoadFailed) and not self.loaded.done():
            self._relax()
            error = ModelFileError if message.by_file else LoadError
            self.loaded.set_exception(error(message.reason))

    def _take_result(self, result: StepResult) -> None:
        """Hand a result to the caller that waits for it. Raises BrokenMessage."""
        if not self._owed:
            raise BrokenMessage(f"the result of step {result.number} came for no step")
        fault = fault_of(self._owed[0].step, result)
        if fault is not None:
            raise BrokenMessage(fault)
        self._relax()
        self.served = True
        owed = self._owed.popleft()
        if not owed.result.done():
            owed.result.set_result(result)
        if self._owed:
            self._watch_step()

    def _write(self, message: Message) -> None:
        assert self._transport is not None
        self._transport.write(encode(message))

    # The watch

    def _watch_step(self) -> None:
        seconds = self._owed[0].seconds
        self._watch(seconds, f"a step took longer than {duration(seconds)}")

    def _watch_loading(self) -> None:
        seconds = self._load_seconds
        self._watch(seconds, f"loading got no further for {duration(seconds)}")

    def _watch(self, seconds: float, overdue: str) -> None:
        # Where this process was held up itself, what came meanwhile is read
        # first: an event loop looks at its sockets before its timers.
        self._relax()
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        self._timer = loop.call_at(due, self._overdue, due, seconds, overdue)

    def _overdue(self, due: float, seconds: float, what: str) -> None:
        if asyncio.get_running_loop().time() - due > STOPPED_SECONDS:
            # A paused container, for instance: the worker was stopped too, and gets its time again.
            self._watch(seconds, what)
        else:
            self._on_fault(LossReason.HUNG, what)

    def _relax(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
