"""Load on llama.cpp's llama-server, by its own endpoint."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from llm_serving_engine.clients.bench.http_target import Event, HttpTarget
from llm_serving_engine.clients.bench.plan import PlannedRequest
from llm_serving_engine.clients.bench.record import UNAVAILABLE, PromptTokens
from llm_serving_engine.clients.bench.target import Ended, Output, ServerFacts, TargetError

PROPERTIES = "/props"


class LlamaServerTarget(HttpTarget):
    """Streams from `/completion`. A salt of one request keeps it from the cache altogether."""

    path = "/completion"

    async def describe(self) -> ServerFacts:
        """See Target."""
        properties = await self.ask(PROPERTIES)
        if properties is None:
            raise TargetError(UNAVAILABLE, f"{self._url}: no llama-server answers there")
        models = (await self.ask("/v1/models") or {}).get("data") or [{}]
        meta = models[0].get("meta") or {}
        defaults = properties.get("default_generation_settings") or {}
        path = str(properties.get("model_path", ""))
        file, alias = PurePath(path).name, str(properties.get("model_alias", ""))
        return ServerFacts(
            address=self._url,
            kind="llama-server",
            protocol=f"HTTP {self.path}",
            version=str(properties.get("build_info", "")),
            model=file if alias in ("", path) else alias,
            weights=str(properties.get("model_ftype", "")),
            slots=properties.get("total_slots"),
            context=defaults.get("n_ctx"),
            details={"file": file, "parameters": meta.get("n_params"), "bytes": meta.get("size")},
        )

    def _body(self, request: PlannedRequest) -> dict[str, Any]:
        body = {
            "prompt": request.prompt,
            "n_predict": request.max_tokens,
            "temperature": request.temperature,
            "ignore_eos": True,
            "stream": True,
            "return_tokens": True,
            "cache_prompt": not request.cache_salt,
        }
        return body if request.seed is None else {**body, "seed": request.seed}

    def _reader(self, request: PlannedRequest) -> LlamaServerReader:
        return LlamaServerReader()


class LlamaServerReader:
    """Counts by `tokens_predicted`: a token that ends within a character has no event."""

    def __init__(self) -> None:
        self._tokens = 0
        self._prompt_tokens: PromptTokens | None = None
        self._told: int | None = None

    def take(self, event: Event) -> Output | None:
        """See Reader."""
        token_ids = tuple(event.get("tokens") or ())
        tokens = int(event.get("tokens_predicted", self._tokens + len(token_ids)))
        came, self._tokens = tokens - self._tokens, tokens
        if event.get("stop"):
            cached = (event.get("timings") or {}).get("cache_n", 0)
            self._prompt_tokens = PromptTokens(event.get("tokens_evaluated", 0), cached)
            self._told = tokens
        text = event.get("content", "")
        return Output(came, text, token_ids) if came or text else None

    def ended(self) -> Ended:
        """See Reader."""
        return Ended(self._prompt_tokens, self._told)
