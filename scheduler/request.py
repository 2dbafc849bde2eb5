"""What a caller asks for, already validated: the unit that the scheduler works on."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field


class Priority(enum.IntEnum):
    """The four classes, served strictly from the highest down."""

    LOW = 1
    NORMAL = 2
    HIGH = 3
    CRITICAL = 4


class Operation(enum.Enum):
    """The kind of a generation, by its name in OpenTelemetry's GenAI conventions."""

    CHAT = "chat"
    TEXT_COMPLETION = "text_completion"


class FinishReason(enum.Enum):
    """Why a request that succeeded came to its end."""

    END_OF_SEQUENCE = "end_of_sequence"
    STOP_SEQUENCE = "stop_sequence"
    MAX_TOKENS = "max_tokens"
    CONTEXT_LENGTH = "context_length"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen from logits; every value is within its range.

    The ranges and the order of application are those of the wire message of
    the same name. `seed` is always set. The tokens of `withheld` are not chosen
    before `min_tokens` others have been.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    min_p: float = 0.05
    top_k: int = 40
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    withheld: frozenset[int] = frozenset()

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, with no randomness."""
        return self.temperature == 0.0

    @property
    def penalised(self) -> bool:
        """Whether tokens seen before change the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as the scheduler sees it: tokens in, tokens out, and its claims.

    Attributes:
        id: Unique among the requests of one scheduler; made by the server.
        prompt: Token ids, at least one.
        max_tokens: Tokens to produce at most, at least 1.
        sampling: How tokens are chosen.
        stop_tokens: Token ids that end the output and are not part of it.
        stop_token_ids: Those of `stop_tokens` that the caller asked for: they
            end it as stop sequences do.
        top_logprobs: Alternatives to report with each token; None for no
            log-probabilities at all.
        priority: The class.
        tenant: On whose behalf; empty where nobody says.
        cache_salt: Prefixes are shared only under equal salts.
        deadline: When the answer is worthless, in seconds of the engine's
            clock; infinity for never.
        operation: For telemetry; the scheduler does not read it.
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = Sampling()
    stop_tokens: frozenset[int] = frozenset()
    stop_token_ids: frozenset[int] = frozenset()
    top_logprobs: int | None = None
    priority: Priority = Priority.NORMAL
    tenant: str = ""
    cache_salt: str = ""
    deadline: float = math.inf
    operation: Operation = Operation.TEXT_COMPLETION

    @property
    def tokens(self) -> int:
        """The cache cells that the request may need: its prompt and all it may produce."""
        return len(self.prompt) + self.max_tokens

    def ended_by(self, token: int) -> FinishReason | None:
        """Why `token` ends the output, or None where it does not."""
        if token not in self.stop_tokens:
            return None
        asked = token in self.stop_token_ids
        return FinishReason.STOP_SEQUENCE if asked else FinishReason.END_OF_SEQUENCE
