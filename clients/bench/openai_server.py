"""Load on any server with an OpenAI-style `/v1/completions`."""

from __future__ import annotations

from typing import Any

from llm_serving_engine.clients.bench.http_target import Event, HttpTarget
from llm_serving_engine.clients.bench.plan import PlannedRequest
from llm_serving_engine.clients.bench.record import UNAVAILABLE, PromptTokens
from llm_serving_engine.clients.bench.target import Ended, Output, ServerFacts, TargetError


class OpenAiTarget(HttpTarget):
    """Streams from `/v1/completions`.

    That answers have the length asked for takes extensions which vLLM, SGLang, and others
    know: `ignore_eos` and `min_tokens`.
    """

    path = "/v1/completions"

    async def describe(self) -> ServerFacts:
        """See Target. The first model is taken where none is named."""
        found = await self.ask("/v1/models")
        if found is None:
            raise TargetError(UNAVAILABLE, f"{self._url}: no OpenAI-style server answers there")
        models = found.get("data") or [{}]
        model = next((one for one in models if one.get("id") == self._model), models[0])
        self._model = self._model or str(model.get("id", ""))
        return ServerFacts(
            address=self._url,
            kind=str(model.get("owned_by") or "OpenAI-style server"),
            protocol=f"HTTP {self.path}",
            version=str((await self.ask("/version") or {}).get("version", "")),
            model=self._model,
            context=model.get("max_model_len"),
        )

    def _body(self, request: PlannedRequest) -> dict[str, Any]:
        body = {
            "model": self._model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "min_tokens": request.max_tokens,
            "temperature": request.temperature,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return body if request.seed is None else {**body, "seed": request.seed}

    def _reader(self, request: PlannedRequest) -> OpenAiReader:
        return OpenAiReader(request.max_tokens)


class OpenAiReader:
    """Counts a token for each event with text: the ids are not told.

    At the end, `usage` says how many there were; where there is none, a stream that ended for
    its length has the tokens asked for.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._prompt_tokens: PromptTokens | None = None
        self._told: int | None = None

    def take(self, event: Event) -> Output | None:
        """See Reader."""
        self._read_usage(event.get("usage"))
        for choice in event.get("choices") or ():
            if choice.get("finish_reason") == "length" and self._told is None:
                self._told = self._max_tokens
            if choice.get("text"):
                return Output(1, choice["text"])
        return None

    def ended(self) -> Ended:
        """See Reader."""
        return Ended(self._prompt_tokens, self._told)

    def _read_usage(self, usage: dict[str, Any] | None) -> None:
        if usage:
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
            self._prompt_tokens = PromptTokens(usage.get("prompt_tokens", 0), cached)
            self._told = usage.get("completion_tokens", self._told)
