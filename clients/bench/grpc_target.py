"""Load on a server of this project, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from types import TracebackType
from typing import TYPE_CHECKING

from llm_serving_engine.clients.aio import AsyncClient
from llm_serving_engine.clients.bench.plan import PlannedRequest
from llm_serving_engine.clients.bench.record import PromptTokens
from llm_serving_engine.clients.bench.target import Ended, Output, ServerFacts, TargetError
from llm_serving_engine.clients.errors import ServingError

if TYPE_CHECKING:
    from typing_extensions import Self


class GrpcTarget:
    """Streams through a client for each tenant. To be used in an `async with` block.

    Args:
        address: Where the server listens.
        cache_salt: Keeps what an earlier run left in the server's prefix
            cache from making this one look fast: give each run its own.
        tenant: Of requests that name none.
        model: The model's name; empty for the default one.
        timeout: Seconds that a request may take.
    """

    salted = True

    def __init__(
        self,
        address: str,
        *,
        cache_salt: str,
        tenant: str | None = None,
        model: str = "",
        timeout: float | None = None,
    ) -> None:
        self._address = address
        self._cache_salt = cache_salt
        self._tenant = tenant
        self._model = model
        self._timeout = timeout
        self._clients: dict[str | None, AsyncClient] = {}

    async def describe(self) -> ServerFacts:
        """See Target."""
        try:
            model = await self._client(self._tenant).model(self._model, timeout=self._timeout)
        except ServingError as error:
            raise TargetError(error.code, f"{self._address}: {error}") from error
        if model.capabilities is None:
            raise TargetError("UNAVAILABLE", f"the model {model.name!r} is {model.state}")
        return ServerFacts(
            address=self._address,
            kind="llm-serving-engine",
            protocol="gRPC",
            model=model.name,
            weights=model.quantization,
            slots=model.capabilities.sequences_max,
            context=model.capabilities.context_per_sequence,
            details={
                "backend": model.backend,
                "architecture": model.architecture,
                "description": model.description,
                "parameters": model.parameter_count,
                "memory_bytes": model.memory_bytes,
                "batch_invariant": model.capabilities.batch_invariant,
            },
        )

    async def stream(self, request: PlannedRequest) -> AsyncGenerator[Output | Ended, None]:
        """See Target."""
        stream = self._client(request.tenant or self._tenant).stream(
            request.prompt,
            model=self._model,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            seed=request.seed,
            ignore_eos=True,
            priority=request.priority,
            cache_salt=self._cache_salt + request.cache_salt,
            timeout=self._timeout if request.deadline is None else request.deadline,
        )
        try:
            async with stream:
                async for delta in stream:
                    if delta.token_ids or delta.text:
                        yield Output(len(delta.token_ids), delta.text, delta.token_ids)
        except ServingError as error:
            raise TargetError(
                error.code,
                str(error),
                reason=error.reason,
                retry_after=getattr(error, "retry_after", None),
            ) from error
        if stream.finished is not None:
            usage = stream.finished.usage
            prompt = PromptTokens(usage.prompt_tokens, usage.cached_prompt_tokens)
            yield Ended(prompt, usage.completion_tokens)

    def _client(self, tenant: str | None) -> AsyncClient:
        if tenant not in self._clients:
            self._clients[tenant] = AsyncClient(self._address, tenant=tenant)
        return self._clients[tenant]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for client in self._clients.values():
            await client.close()
