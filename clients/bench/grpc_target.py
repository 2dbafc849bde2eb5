"""Load on a server of this project, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from llm_serving_engine.clients.aio import AsyncClient
from llm_serving_engine.clients.bench.target import TargetError
from llm_serving_engine.clients.errors import ServingError


class GrpcTarget:
    """Streams through a client.

    Args:
        client: Stays the caller's.
        cache_salt: Keeps what an earlier run left in the server's prefix
            cache from making this one look fast: give each run its own.
        model: The model's name; empty for the default one.
        timeout: Seconds that a request may take.
    """

    def __init__(
        self, client: AsyncClient, *, cache_salt: str, model: str = "", timeout: float | None = None
    ) -> None:
        self._client = client
        self._cache_salt = cache_salt
        self._model = model
        self._timeout = timeout

    async def stream(self, prompt: str, max_tokens: int) -> AsyncGenerator[int, None]:
        """See Target."""
        stream = self._client.stream(
            prompt,
            model=self._model,
            max_tokens=max_tokens,
            temperature=0.0,
            ignore_eos=True,
            cache_salt=self._cache_salt,
            timeout=self._timeout,
        )
        try:
            async with stream:
                async for delta in stream:
                    if delta.token_ids:
                        yield len(delta.token_ids)
        except ServingError as error:
            raise TargetError(error.code, str(error)) from error
