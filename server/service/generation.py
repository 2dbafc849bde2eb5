"""Turns the token stream of one generation into the caller's events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from llm_serving_engine.backends.text.detokenizer import Detokenizer
from llm_serving_engine.backends.text.output import TextOutput
from llm_serving_engine.backends.text.reasoning_parser import Parts
from llm_serving_engine.backends.text.tokenizer import Tokenizer
from llm_serving_engine.scheduler.errors import Cancelled, DeadlinePassed, RequestError
from llm_serving_engine.scheduler.events import Produced
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import FinishReason
from llm_serving_engine.scheduler.sequence import Sequence as RequestSequence
from llm_serving_engine.server.engine.engine import Engine
from llm_serving_engine.server.events import (
    Answer,
    Delta,
    Event,
    Finished,
    PositionLogprobs,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from llm_serving_engine.server.service.validation import Call


class Generation:
    """A request in the engine, and its output as text.

    Stop sequences are found here, in the text, while the runner already
    computes the next step; tokens computed beyond one are dropped.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer, call: Call) -> None:
        """Queue the request. Raises RequestError if it is refused."""
        self.call = call
        self.finished: Finished | None = None
        self._engine = engine
        self._tokenizer = tokenizer
        self._output = TextOutput(
            tokenizer,
            call.stops,
            min_tokens=call.request.sampling.min_tokens,
            reasoning=call.reasoning,
            inside=call.opens_reasoning,
        )
        self._stream = engine.submit(call.request)

    @property
    def sequence(self) -> RequestSequence:
        """The scheduler's sequence of the request."""
        return self._stream.sequence

    async def started(self) -> None:
        """Wait until the request has left the queue. Raises RequestError if it ends before."""
        await self._stream.started()

    async def events(self) -> AsyncIterator[Event]:
        """Started, deltas as the output comes, and Finished. Raises RequestError on failure."""
        await self._stream.started()
        yield self._started()
        async for batch in self._stream:
            before = self._output.consumed
            parts = self._output.feed_parts(produced.token for produced in batch)
            yield self._delta(parts, batch[: self._output.consumed - before])
            if self._output.stopped:
                self._engine.finish(self.sequence.key, self._output.consumed)
                break
        else:
            rest = self._output.finish_parts()
            if rest.text or rest.reasoning:
                yield Delta(rest.text, reasoning=rest.reasoning)
        self.finished = Finished(self.finish_reason, self.usage, self.timings)
        yield self.finished

    async def answer(self) -> Answer:
        """Collect all events into an answer. Raises RequestError if the request fails."""
        events = [event async for event in self.events()]
        started, *deltas, finished = events
        assert isinstance(started, Started)
        assert isinstance(finished, Finished)
        return Answer(started, [delta for delta in deltas if isinstance(delta, Delta)], finished)

    def abandon(self, error: RequestError | None) -> None:
        """Cancel the request if it is still alive, after its call has ended with `error`."""
        expired = isinstance(error, DeadlinePassed)
        failure = None if isinstance(error, (Cancelled, DeadlinePassed)) else error
        self._engine.cancel(self.sequence.key, error=failure, expired=expired)

    def detokenizer(self) -> Detokenizer:
        """A new decoder of the output's tokens."""
        return Detokenizer(self._tokenizer)

    @property
    def prompt_text(self) -> str:
        """The prompt as text, as its tokens spell it."""
        pieces = map(self._tokenizer.piece, self.call.request.prompt)
        return b"".join(pieces).decode("utf-8", "replace")

    @property
    def stop_sequence(self) -> str | None:
        """The stop sequence that ended the output, if one did."""
        return self._output.matched

    @property
    def finish_reason(self) -> FinishReason:
        """Why the output is complete, once the events have ended."""
        # The scheduler may have ended the request for another reason before it
        # heard of the stop sequence; the caller's view counts.
        if self._output.stopped:
            return FinishReason.STOP_SEQUENCE
        assert self.sequence.finish_reason is not None
        return self.sequence.finish_reason

    @property
    def usage(self) -> Usage:
        """Tokens consumed so far, those of a stop sequence included."""
        return Usage(
            prompt_tokens=len(self.call.request.prompt),
            cached_prompt_tokens=self.sequence.cached_prompt_tokens or 0,
            completion_tokens=self._output.consumed,
            reasoning_tokens=self._output.reasoning_tokens,
        )

    @property
    def timings(self) -> Timings:
        """The request's times."""
        sequence = self.sequence
        first = sequence.first_token_at
        return Timings(
            queue=sequence.seconds_in(State.WAITING),
            prefill=sequence.seconds_in(State.PREFILL),
            decode=sequence.seconds_in(State.DECODE),
            time_to_first_token=None if first is None else first - sequence.arrived_at,
        )

    def _started(self) -> Started:
        return Started(
            request_id=self.call.request_id,
            model=self.call.model,
            prompt_tokens=len(self.call.request.prompt),
            cached_prompt_tokens=self.sequence.cached_prompt_tokens or 0,
        )

    def _delta(self, parts: Parts, batch: Sequence[Produced]) -> Delta:
        tokens = [produced.token for produced in batch]
        wanted = self.call.request.top_logprobs is not None
        logprobs = self._logprobs(batch) if wanted else ()
        return Delta(parts.text, tokens, logprobs, parts.reasoning)

    def _logprobs(self, batch: Sequence[Produced]) -> list[PositionLogprobs]:
        def named(token: int, logprob: float) -> TokenLogprob:
            return TokenLogprob(token, self._tokenizer.name(token), logprob)

        return [
            PositionLogprobs(
                named(produced.token, produced.logprobs.chosen),
                [named(token, logprob) for token, logprob in produced.logprobs.top],
            )
            for produced in batch
            if produced.logprobs is not None
        ]
