"""A backend without a model: its next token is arithmetic on the tokens before it.

It answers like a real one, bit for bit the same in any company, and checks
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
    CacheOperation,
    Capabilities,
    ClearSlot,
    CopyPrefix,
    Logprobs,
    OpenSequence,
    RestoreSlot,
    SampledToken,
    SaveSlot,
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
        saved: The saved caches, by key.
    """

    def __init__(
        self, path: str = "", config: BackendConfig | None = None, progress: object = None
    ) -> None:
        del path, progress
        config = config or BackendConfig()
        capabilities = Capabilities(
            sequences_max=config.sequences or 4,
            context_per_sequence=config.context_per_sequence or 4096,
            save_restore=True,
            batch_invariant=True,
            cache_bytes_per_token=CACHE_BYTES_PER_TOKEN,
        )
        self.report = LoadReport(capabilities, settings={}, memory_bytes={})
        self._caches: list[list[int]] = [[] for _ in range(capabilities.sequences_max)]
        self.saved: dict[int, list[int]] = {}
        self._open: list[OpenSequence | None] = [None] * capabilities.sequences_max

    @staticmethod
    def load_tokenizer(path: Path, config: BackendConfig) -> ByteTokenizer:
        """The bytes."""
        del path, config
        return ByteTokenizer()

    def execute(self, step: Step) -> StepResult:
        """Do a step. Raises ContractViolation where it breaks the contract."""
        started = time.perf_counter()
        self._check_order(step)
        for operation in step.operations:
            self._operate(operation)
        for opened in step.opens:
            self._open[opened.slot] = opened
        sampled = []
        for chunk in step.prefills:
            self._append(chunk.slot, chunk.position, chunk.tokens)
            if chunk.sample:
                sampled.append(self._sample(chunk.slot))
        for row in step.decodes:
            self._append(row.slot, row.position, (row.token,))
            sampled.append(self._sample(row.slot))
        return StepResult(step.number, tuple(sampled), (), time.perf_counter() - started)

    def close(self) -> None:
        """Forget everything."""
        self._caches.clear()

    def _operate(self, operation: CacheOperation) -> None:
        caches = self._caches
        if isinstance(operation, ClearSlot):
            _require(operation.from_position <= len(caches[operation.slot]), "clears what is not")
            del caches[operation.slot][operation.from_position :]
        elif isinstance(operation, CopyPrefix):
            source = caches[operation.source]
            _require(operation.tokens <= len(source), "copies more than the source holds")
            caches[operation.target] = source[: operation.tokens]
        elif isinstance(operation, SaveSlot):
            self.saved[operation.key] = list(caches[operation.slot])
        elif isinstance(operation, RestoreSlot):
            _require(operation.key in self.saved, "restores what was not saved")
            caches[operation.slot] = self.saved.pop(operation.key)
        else:
            _require(operation.key in self.saved, "drops what was not saved")
            del self.saved[operation.key]

    def _append(self, slot: int, position: int, tokens: tuple[int, ...]) -> None:
        cache = self._caches[slot]
        _require(self._open[slot] is not None, f"slot {slot} is not open")
        _require(len(tokens) > 0, "an empty chunk")
        _require(position == len(cache), f"slot {slot} is at {len(cache)}, not {position}")
        cache.extend(tokens)
        _require(len(cache) <= self.report.capabilities.context_per_sequence, "context overrun")

    def _sample(self, slot: int) -> SampledToken:
        token = next_token(self._caches[slot])
        opened = self._open[slot]
        assert opened is not None
        if opened.top_logprobs is None:
            return SampledToken(slot, token)
        top = tuple(((token + i) % VOCABULARY_SIZE, -float(i)) for i in range(opened.top_logprobs))
        return SampledToken(slot, token, Logprobs(0.0, top))

    @staticmethod
    def _check_order(step: Step) -> None:
        rows = [row.slot for row in step.decodes]
        _require(rows == sorted(set(rows)), "decode rows are not in ascending order")
        chunks = [chunk.slot for chunk in step.prefills]
        _require(len(set(chunks)) == len(chunks), "two chunks for one slot")
        _require(not set(rows) & set(chunks), "a slot both prefills and decodes")


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
