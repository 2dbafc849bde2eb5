"""A backend without a model: its next token is arithmetic on the tokens before it.

It answers like a real one, bit for bit the same alone and beside others, and checks
that every step keeps to the contract. Tests and demonstrations run on it.
Its vocabulary is the 256 bytes and an end-of-sequence token.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from llm_serving_engine.backends.backend import BackendConfig, LoadReport
from llm_serving_engine.backends.text.control_tokens import ControlTokens, joined_tokens
from llm_serving_engine.scheduler.step import (
    FOLLOW,
    Capabilities,
    Close,
    Copy,
    Drop,
    Logprobs,
    Open,
    Operation,
    Output,
    Restore,
    Run,
    RunResult,
    Save,
    Step,
    StepResult,
)

END_OF_SEQUENCE = 256
VOCABULARY_SIZE = 257
CACHE_BYTES_PER_TOKEN = 1000
_WORDS = b"the quick brown fox jumps over the lazy dog and then rests a while. "


class ContractViolation(AssertionError):
    """A step asked for something that the contract does not allow."""


def next_token(tokens: list[int]) -> int:
    """The scripted model itself: some byte of a sentence, chosen by all tokens before it."""
    state = 2166136261
    for token in tokens[-64:]:
        state = (state ^ token) * 16777619 % 2**32
    state = (state ^ len(tokens)) * 16777619 % 2**32
    return END_OF_SEQUENCE if state % 211 == 0 else _WORDS[state // 211 % len(_WORDS)]


class ScriptedBackend:
    """Executes steps on the scripted model, strictly.

    Attributes:
        report: What it can do.
        snapshots: The saved caches, by number.
        caches: The tokens in each slot.
        keys: The open keys.
    """

    def __init__(
        self, path: str = "", config: BackendConfig | None = None, progress: object = None
    ) -> None:
        del path, progress
        config = config or BackendConfig()
        capabilities = Capabilities(
            slots=config.sequences or 4,
            context=config.context_per_sequence or 4096,
            snapshots=True,
            joins=True,
            chunk=config.prefill_chunk or Capabilities(1, 1).chunk,
            batch_invariant=True,
            token_bytes=CACHE_BYTES_PER_TOKEN,
        )
        longest = max(capabilities.chunk, capabilities.slots, capabilities.call_tokens_max)
        capabilities = capabilities._replace(call_tokens_max=longest)
        self.report = LoadReport(capabilities, settings={}, memory_bytes={})
        self.caches: list[list[int]] = [[] for _ in range(capabilities.slots)]
        self.snapshots: dict[int, list[int]] = {}
        self.keys: dict[int, Open] = {}

    @staticmethod
    def load_tokenizer(path: Path, config: BackendConfig) -> ByteTokenizer:
        """The bytes."""
        del path, config
        return ByteTokenizer()

    def execute(self, step: Step) -> StepResult:
        """Do a step. Raises ContractViolation where it breaks the contract."""
        started = time.perf_counter()
        for operation in step.operations:
            self._operate(operation)
        operated = time.perf_counter()
        self._check_call(step)
        runs = tuple(map(self._compute, step.runs))
        ended = time.perf_counter()
        return StepResult(
            step.number,
            runs=runs,
            seconds=ended - operated,
            operation_seconds=operated - started,
            shape=step.shape,
        )

    def close(self) -> None:
        """Forget everything."""
        self.caches.clear()

    def _operate(self, operation: Operation) -> None:
        caches = self.caches
        if isinstance(operation, Open):
            self.keys[operation.key] = operation
        elif isinstance(operation, Close):
            _require(operation.key in self.keys, "closes a key that is not open")
            del self.keys[operation.key]
        elif isinstance(operation, Copy):
            source = caches[operation.source]
            _require(operation.source != operation.target, "copies a slot to itself")
            _require(0 < operation.tokens <= len(source), "copies more than the source holds")
            caches[operation.target] = source[: operation.tokens]
        elif isinstance(operation, Save):
            held = len(caches[operation.slot])
            _require(0 < operation.tokens == held, "saves another length than the slot holds")
            self.snapshots[operation.snapshot] = list(caches[operation.slot])
        elif isinstance(operation, Restore):
            _require(operation.snapshot in self.snapshots, "restores what was not saved")
            saved = self.snapshots[operation.snapshot]
            _require(operation.tokens == len(saved), "restores another length than was saved")
            caches[operation.slot] = list(saved)
        elif isinstance(operation, Drop):
            _require(operation.snapshot in self.snapshots, "drops what was not saved")
            del self.snapshots[operation.snapshot]

    def _check_call(self, step: Step) -> None:
        can = self.report.capabilities
        slots = [run.slot for run in step.runs]
        lengths = [len(run.tokens) for run in step.runs]
        _require(slots == sorted(set(slots)), "runs are not in ascending order of slots")
        keys = {run.key for run in step.runs}
        _require(len(keys) == len(slots), "two runs of one key")
        _require(sum(lengths) <= can.call_tokens_max, "more tokens than a call takes")
        if len(slots) > 1 and not step.rows:
            _require(can.joins, "chunks of several sequences")
            _require(slots[-1] - slots[0] == len(slots) - 1, "joined chunks with a hole between")
            _require(1 not in lengths, "a row among chunks")
            _require(max(lengths) - min(lengths) <= can.padding, "joined chunks differ in length")

    def _compute(self, run: Run) -> RunResult:
        can, cache = self.report.capabilities, self.caches[run.slot]
        _require(run.key in self.keys, f"key {run.key} is not open")
        _require(len(run.tokens) > 0 and FOLLOW not in run.tokens, "a run without its tokens")
        _require(run.output in can.outputs, "an output that is not among the capabilities")
        _require(run.start <= len(cache), f"slot {run.slot} is at {len(cache)}, not {run.start}")
        dropped = len(cache) - run.start
        within = can.rollback is None or dropped <= can.rollback or run.start == 0
        _require(within, f"drops {dropped} tokens")
        cache[run.start :] = run.tokens
        _require(len(cache) <= can.context, "context overrun")
        if not run.output & Output.SAMPLE:
            return RunResult(run.key, len(run.tokens))
        token = next_token(cache)
        logprobs: tuple[Logprobs, ...] = ()
        if run.output & Output.LOGPROBS:
            count = self.keys[run.key].top_logprobs or 0
            top = tuple(((token + i) % VOCABULARY_SIZE, -float(i)) for i in range(count))
            logprobs = (Logprobs(0.0, top),)
        return RunResult(run.key, len(run.tokens), (token,), logprobs)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ContractViolation(message)


class ByteTokenizer:
    """The scripted model's vocabulary: a token for each byte, and an end-of-sequence token."""

    info = None
    vocabulary_size = VOCABULARY_SIZE
    stop_tokens = frozenset({END_OF_SEQUENCE})
    longest_piece = 1
    bos_text = ""
    eos_text = "<end>"
    control_tokens = ControlTokens({eos_text: END_OF_SEQUENCE})
    chat_template = None
    training_context = 0

    def encode(self, text: str, *, special: bool) -> list[int]:
        """The bytes of the text."""
        return self.encode_pieces(self.control_tokens.split(text) if special else [text])

    def encode_pieces(self, pieces: Iterable[str | int]) -> list[int]:
        """The bytes of the texts, and the tokens."""
        return joined_tokens(pieces, lambda text: list(text.encode()))

    def piece(self, token: int) -> bytes:
        """The byte; nothing for the end-of-sequence token."""
        return b"" if token == END_OF_SEQUENCE else bytes((token,))

    def name(self, token: int) -> bytes:
        """The byte, or the end-of-sequence token's name."""
        return self.eos_text.encode() if token == END_OF_SEQUENCE else bytes((token,))
