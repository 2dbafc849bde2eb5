"""Records which requests come, as a trace for `llm-serving-engine simulate`; never what they say.

That prompts begin alike is seen by hashes under a key that is drawn at start
and kept nowhere: a trace tells neither what they begin with, nor whether those
of another run begin so too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import time
from array import array
from collections import OrderedDict
from collections.abc import Sequence as Several
from pathlib import Path
from typing import NamedTuple

from llm_serving_engine.scheduler.cost import Costs
from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Step, StepResult
from llm_serving_engine.server.simulator.trace import TraceRecord

# Common beginnings are told in multiples of so many tokens.
BLOCK_TOKENS = 64
GROUPS_MAX = 4096

_logger = logging.getLogger(__name__)


class TraceRecorder:
    """An Observer that writes a line for each request that ends.

    A request that was refused leaves none: what it would have produced is not
    known. One that was ended early stands with what it had produced.
    """

    def __init__(self, path: Path, bytes_max: int, started_at: float | None = None) -> None:
        """Begin a file, in place of one that is there.

        Args:
            path: The trace.
            bytes_max: What does not fit any more is not recorded.
            started_at: Arrivals are told from here, in seconds of the engine's
                clock. Default: now.

        Raises:
            OSError: The file cannot be written.
        """
        self._path = path
        self._room = bytes_max
        self._started_at = time.monotonic() if started_at is None else started_at
        self._groups = PrefixGroups()
        # A line is on disk when it is written: whoever looks need not wait for the end.
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
        """Steps are not part of a trace."""

    def close(self, costs: Costs | None = None) -> None:
        """End the file.

        Args:
            costs: What the scheduler has learned of steps; goes into a file beside
                the trace, for the simulator.
        """
        self._recording = False
        try:
            self._file.close()
            if costs is not None:
                content = json.dumps(costs._asdict(), indent=2) + "\n"
                self._path.with_suffix(".cost.json").write_text(content, encoding="utf-8")
        except OSError as error:
            _logger.warning("the trace of requests is not complete: %s", error)

    def _record(self, sequence: Sequence) -> TraceRecord:
        request, arrived_at = sequence.request, sequence.arrived_at
        group, tokens = self._groups.find(request)
        return TraceRecord(
            at=max(arrived_at - self._started_at, 0.0),
            prompt_tokens=len(request.prompt),
            output_tokens=min(len(sequence.output), request.max_tokens),
            max_tokens=request.max_tokens,
            tenant=request.tenant,
            priority=request.priority,
            prefix_group=group,
            prefix_tokens=tokens,
            deadline=None if request.deadline is None else request.deadline - arrived_at,
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


class _Group(NamedTuple):
    """What prompts that begin alike are called, and the hashes of the longest one's blocks."""

    name: str
    blocks: tuple[bytes, ...]


class PrefixGroups:
    """Finds prompts that begin alike, block by block, and keeps none of their tokens.

    The first block says which group a prompt is of. The group's run is its
    longest prompt that begins with all of the run before it; how much of the
    run another one begins with is what it has in common with the group.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        # By the hash of the first block, the one found longest ago first.
        self._groups: OrderedDict[bytes, _Group] = OrderedDict()

    def find(self, request: Request) -> tuple[str | None, int]:
        """A request's group, and how many tokens of its run it begins with; (None, 0) of none."""
        blocks = self._hashes(request)
        if not blocks:
            return None, 0
        group = self._groups.pop(blocks[0], None) or _Group(secrets.token_hex(6), ())
        common = _alike(blocks, group.blocks)
        if common == len(group.blocks):
            common, group = len(blocks), group._replace(blocks=blocks)
        self._groups[blocks[0]] = group
        if len(self._groups) > GROUPS_MAX:
            self._groups.popitem(last=False)
        return group.name, common * BLOCK_TOKENS

    def _hashes(self, request: Request) -> tuple[bytes, ...]:
        """Of each whole block. Prefixes are shared within a tenant and a salt only."""
        owner = self._hash(json.dumps([request.tenant, request.cache_salt]).encode())
        prompt = request.prompt
        ends = range(BLOCK_TOKENS, len(prompt) + 1, BLOCK_TOKENS)
        blocks = (array("q", prompt[end - BLOCK_TOKENS : end]).tobytes() for end in ends)
        return tuple(self._hash(owner + block) for block in blocks)

    def _hash(self, content: bytes) -> bytes:
        return hashlib.blake2b(content, digest_size=8, key=self._key).digest()


def _alike(a: Several[bytes], b: Several[bytes]) -> int:
    """How many items both begin with."""
    for i, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other:
            return i
    return min(len(a), len(b))
