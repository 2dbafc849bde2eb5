"""One generation: from the stream of tokens to the text that a caller sees."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from llm_serving_engine.backends.text.output import TextOutput
from llm_serving_engine.backends.text.tokenizer import Tokenizer
from llm_serving_engine.scheduler.engine import Engine
from llm_serving_engine.scheduler.errors import Cancelled, DeadlinePassed, RequestError
from llm_serving_engine.scheduler.events import Produced
from llm_serving_engine.scheduler.request import FinishReason
from llm_serving_engine.scheduler.sequence import Sequence as Course
from llm_serving_engine.scheduler.stream import TokenStream
from llm_serving_engine.server.validation import Call


class Delta(NamedTuple):
    """More output: text to append, and the tokens behind it."""

    text: str
    tokens: Sequence[Produced]


class Generation:
    """A request that is under way.

    A stop sequence is found here, in the text, while the runner is already at
    the next step: what it computed beyond is dropped.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, call: Call) -> None:
        """Put the request into the queue. Raises RequestError where it is refused."""
        self.call = call
        self._engine = engine
        self._output = TextOutput(tokenizer, call.stops)
        self._stream: TokenStream = engine.submit(call.request)

    @property
    def course(self) -> Course:
        """What the scheduler knows of the request."""
        return self._stream.sequence

    async def started(self) -> None:
        """Wait until it has left the queue. Raises RequestError where it ended before."""
        await self._stream.started()

    async def deltas(self) -> AsyncIterator[Delta]:
        """The output as it comes. Raises RequestError where the request fails."""
        async for batch in self._stream:
            before = self._output.consumed
            text = self._output.feed(produced.token for produced in batch)
            yield Delta(text, batch[: self._output.consumed - before])
            if self._output.stopped:
                self._engine.finish(self.call.request.id, self._output.consumed)
                return
        if rest := self._output.finish():
            yield Delta(rest, ())

    def abandon(self, error: RequestError | None) -> None:
        """End the request if it is still alive: its RPC has ended, with that error."""
        expired = isinstance(error, DeadlinePassed)
        failure = None if isinstance(error, (Cancelled, DeadlinePassed)) else error
        self._engine.cancel(self.call.request.id, error=failure, expired=expired)

    @property
    def finish_reason(self) -> FinishReason:
        """Why the output is complete, once `deltas` has ended."""
        # The scheduler may have ended the request for another reason while the
        # stop sequence was on its way here; what the caller sees counts.
        if self._output.stopped:
            return FinishReason.STOP_SEQUENCE
        assert self.course.finish_reason is not None
        return self.course.finish_reason

    @property
    def completion_tokens(self) -> int:
        """Tokens of the output, those of a stop sequence included."""
        return self._output.consumed
