"""Converts log-probabilities to the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_serving_engine.backends.text.detokenizer import Detokenizer
from llm_serving_engine.server.events import PositionLogprobs, TokenLogprob

# JSON has no infinities; OpenAI's own answers say this for what is impossible.
LOGPROB_MIN = -9999.0


def chat_logprobs(positions: Sequence[PositionLogprobs]) -> dict[str, Any]:
    """The object `logprobs` of a chat's choice."""
    return {"content": token_logprobs(positions), "refusal": None}


def token_logprobs(positions: Sequence[PositionLogprobs]) -> list[dict[str, Any]]:
    """Each token with its alternatives."""
    return [
        {**_token(position.chosen), "top_logprobs": [_token(one) for one in position.top]}
        for position in positions
    ]


class CompletionLogprobs:
    """The objects `logprobs` of a completion's choice, chunk by chunk."""

    def __init__(self, detokenizer: Detokenizer) -> None:
        """Begin a choice, whose tokens the detokenizer decodes."""
        self._detokenizer = detokenizer
        self._offset = 0

    def take(self, positions: Sequence[PositionLogprobs]) -> dict[str, Any]:
        """The object for the next tokens; `text_offset` counts on from those before."""
        offsets = []
        for position in positions:
            offsets.append(self._offset)
            # Not its name: a control token adds no text, and a part of a character none yet.
            self._offset += len(self._detokenizer.feed((position.chosen.token,)))
        return {
            "tokens": [_legacy_name(position.chosen) for position in positions],
            "token_logprobs": [finite(position.chosen.logprob) for position in positions],
            "top_logprobs": [
                {_legacy_name(one): finite(one.logprob) for one in position.top}
                for position in positions
            ],
            "text_offset": offsets,
        }


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return logprob if logprob > LOGPROB_MIN else LOGPROB_MIN


def _text(token: TokenLogprob) -> str:
    return token.name.decode("utf-8", "replace")


def _legacy_name(token: TokenLogprob) -> str:
    """A token's text, or its bytes where they are a part of a character, as OpenAI writes them.

    As texts, all such parts would be the same.
    """
    try:
        return token.name.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.name)


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": _text(token),
        "logprob": finite(token.logprob),
        "bytes": list(token.name),
    }
