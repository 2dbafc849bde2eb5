"""Log-probabilities as OpenAI's clients read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_serving_engine.server.service.events import PositionLogprobs, TokenLogprob

# JSON has no infinities; OpenAI's own answers say this for what is impossible.
LOGPROB_MIN = -9999.0


def chat_logprobs(positions: Sequence[PositionLogprobs]) -> dict[str, Any]:
    """The object `logprobs` of a chat's choice."""
    content = [
        {**_token(position.chosen), "top_logprobs": [_token(one) for one in position.top]}
        for position in positions
    ]
    return {"content": content, "refusal": None}


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return logprob if logprob > LOGPROB_MIN else LOGPROB_MIN


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": token.name.decode("utf-8", "replace"),
        "logprob": finite(token.logprob),
        "bytes": list(token.name),
    }
