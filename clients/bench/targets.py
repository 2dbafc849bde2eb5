"""Makes the target for an address.

HOST:PORT, grpc://HOST:PORT     a server of this project, over gRPC
llama+http://HOST:PORT          llama-server's own endpoint
openai+http://HOST:PORT         an OpenAI-style endpoint, at /v1
http://HOST:PORT                the first where /props answers, else the second
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_serving_engine.clients.bench.grpc_target import GrpcTarget
from llm_serving_engine.clients.bench.target import OpenTarget, TargetError

if TYPE_CHECKING:
    from llm_serving_engine.clients.bench.http_target import HttpTarget

WITHOUT_AIOHTTP = "HTTP needs aiohttp: run `pip install '.[bench]'` in the checkout"


async def target_at(
    address: str,
    *,
    cache_salt: str,
    tenant: str | None = None,
    model: str = "",
    timeout: float | None = None,
) -> OpenTarget:
    """A target for the address; the arguments are GrpcTarget's. Raises TargetError."""
    scheme, separator, rest = address.rpartition("://")
    if scheme in ("", "grpc"):
        return GrpcTarget(rest, cache_salt=cache_salt, tenant=tenant, model=model, timeout=timeout)
    kind, _, transport = scheme.rpartition("+")
    if kind not in ("", "llama", "openai") or transport not in ("http", "https"):
        raise TargetError(
            "INVALID_ARGUMENT",
            f"{address}: not HOST:PORT or one of grpc://, http://, llama+http://, openai+http://",
        )
    url = f"{transport}{separator}{rest}".rstrip("/").removesuffix("/v1")
    return await _http_target(kind, url, model, timeout)


async def _http_target(kind: str, url: str, model: str, timeout: float | None) -> HttpTarget:
    try:
        from llm_serving_engine.clients.bench.llama_server import PROPERTIES, LlamaServerTarget
        from llm_serving_engine.clients.bench.openai_server import OpenAiTarget
    except ImportError as error:
        raise TargetError("UNIMPLEMENTED", WITHOUT_AIOHTTP) from error
    if not kind:
        async with LlamaServerTarget(url) as probe:
            kind = "llama" if await probe.ask(PROPERTIES) else "openai"
    made = LlamaServerTarget if kind == "llama" else OpenAiTarget
    return made(url, model=model, timeout=timeout)
