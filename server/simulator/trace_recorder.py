"""Records requests as a trace for `llm-serving-engine simulate`, without their text.

That texts begin alike is seen by hashes under a key that is drawn at start and
kept nowhere: a trace tells neither what they begin with, nor whether those of
another trace begin so too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import secrets
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Sequence as Several
from pathlib import Path

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Step, StepResult
from llm_serving_engine.server.simulator.replay_settings import (
    ReplaySettings,
    server_path,
    write_settings,
)
from llm_serving_engine.server.simulator.step_times import StepTimes
from llm_serving_engine.server.simulator.trace import TraceRecord

# Tokens that are hashed together.
BLOCK_TOKENS = 8
BLOCKS_MAX = 200_000

Pieces = tuple[tuple[str, int], ...]

_logger = logging.getLogger(__name__)


class TraceRecorder:
    """An Observer that writes a line for each request that ends.

    A request that was refused leaves none: what it would have produced is not
    known. One that was ended early stands with what it had produced.
    """

    def __init__(
        self, path: Path, bytes_max: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the file; overwrite an existing one.

        Args:
            path: The trace.
            bytes_max: What does not fit any more is not recorded.
            clock: The engine's, in seconds; arrivals are told from now.

        Raises:
            OSError: The file cannot be written.
        """
        self._path = path
        self._room = bytes_max
        self._clock, self._started_at = clock, clock()
        self._prefixes = Prefixes()
        self._times = StepTimes()
        # Each line is flushed, so that readers see it at once.
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._recording = True

    def transitioned(self, sequence: Sequence) -> None:
        """Write a request that has ended."""
        if not (self._recording and sequence.state.ended):
            return
        try:
            self._write(self._record(sequence).line())
        except (OSError, ValueError) as error:
            self._stop(f"it cannot be written: {error}")

    def refused(self, request: Request, error: RequestError) -> None:
        """Nothing is known of what it would have been."""

    def stepped(self, step: Step, result: StepResult) -> None:
        """Take in what it took."""
        self._times.add(step, result, self._clock() - self._started_at)

    def close(self, scheduler: Scheduler | None = None) -> None:
        """Close the file.

        Args:
            scheduler: What it can do, its configuration, and what steps took go into a
                file beside the trace: the server, for the simulator.
        """
        self._recording = False
        try:
            self._file.close()
            if scheduler is not None:
                write_settings(server_path(self._path), self._server(scheduler))
        except OSError as error:
            _logger.warning("the trace of requests is not complete: %s", error)

    def _server(self, scheduler: Scheduler) -> ReplaySettings:
        """With what was timed at load, for kinds of calls that no request led to."""
        can, times = scheduler.capabilities, self._times
        for shape, seconds in can.speeds:
            times.add_call(shape, seconds)
        costs = times.costs(scheduler.cost)
        slowdown = times.slowdown(costs)
        return ReplaySettings(can, costs, slowdown, times.handover_seconds, scheduler.config)

    def _record(self, sequence: Sequence) -> TraceRecord:
        request, arrived_at = sequence.request, sequence.arrived_at
        first, last = sequence.first_token_at, sequence.last_token_at
        return TraceRecord(
            at=max(arrived_at - self._started_at, 0.0),
            prompt_tokens=len(request.prompt),
            output_tokens=min(len(sequence.output), request.max_tokens),
            max_tokens=request.max_tokens,
            tenant=request.tenant,
            priority=request.priority,
            prefix=self._prefixes.find(request, sequence.output),
            deadline=None if request.deadline == math.inf else request.deadline - arrived_at,
            first_token_seconds=None if first is None else first - arrived_at,
            seconds=None if last is None else last - arrived_at,
        )

    def _write(self, line: str) -> None:
        self._room -= len(line.encode())
        if self._room < 0:
            self._stop("it has reached trace_bytes_max")
        else:
            self._file.write(line)

    def _stop(self, reason: str) -> None:
        self._recording = False
        _logger.warning("the trace of requests ends here: %s", reason)


class Prefixes:
    """Finds common prefixes of texts without keeping their tokens.

    A block is known by a hash of all that its text has up to the block's end; a text's
    last block may be a part of one. So where a text goes on with all of another one,
    what they have in common is found to the token, and else in whole blocks. What no
    text had before is a run of its own.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._names = map(str, itertools.count(1))
        # The runs of a block and their ends, by its hash; the one found longest ago first.
        self._blocks: OrderedDict[bytes, Pieces] = OrderedDict()

    def find(self, request: Request, output: Several[int]) -> dict[str, int]:
        """Return the runs at the beginning of prompt and output, with the end of each.

        Prefixes are shared within a tenant and a salt only.
        """
        tokens = array("q", (*request.prompt, *output))
        before = self._hash(json.dumps([request.tenant, request.cache_salt]).encode())
        found, own = list[tuple[bytes, Pieces]](), ""
        for start in range(0, len(tokens), BLOCK_TOKENS):
            block = tokens[start : start + BLOCK_TOKENS]
            hashed = self._hash(before + block.tobytes())
            pieces = self._blocks.pop(hashed, ())
            if not pieces:
                begun = () if own else self._begun(before, block)
                own = own or next(self._names)
                pieces = (*begun, (own, start + len(block)))
            found.append((hashed, pieces))
            before = hashed
        # Beginnings are forgotten after what follows them.
        self._blocks.update(reversed(found))
        while len(self._blocks) > BLOCKS_MAX:
            self._blocks.popitem(last=False)
        return dict(piece for _, pieces in found for piece in pieces)

    def _begun(self, before: bytes, block: array[int]) -> Pieces:
        """The runs of the longest text that ends within a block."""
        for length in range(len(block) - 1, 0, -1):
            if pieces := self._blocks.get(self._hash(before + block[:length].tobytes())):
                return pieces
        return ()

    def _hash(self, content: bytes) -> bytes:
        return hashlib.blake2b(content, digest_size=8, key=self._key).digest()
