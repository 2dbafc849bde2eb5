"""Generate, Stream, Tokenize, and Detokenize over gRPC: conversion to and from the service."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

from llm_serving_engine.server.config import GrpcConfig
from llm_serving_engine.server.decoding import decode_detokenize, decode_generate, decode_tokenize
from llm_serving_engine.server.encoding import encode_answer, encode_event, encode_tokens
from llm_serving_engine.server.rpc_timeouts import RpcTimeouts
from llm_serving_engine.server.service.caller import Caller
from llm_serving_engine.server.service.inference import Inference
from llm_serving_engine.server.telemetry.attributes import rpc_attributes
from llm_serving_engine.v1 import inference_pb2, inference_pb2_grpc

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
TENANT_KEY = "x-tenant-id"

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService(inference_pb2_grpc.InferenceServiceServicer):
    """Converts messages; `Inference` does the rest."""

    def __init__(self, inference: Inference, config: GrpcConfig | None = None) -> None:
        config = config or GrpcConfig()
        self._inference = inference
        self._timeouts = RpcTimeouts(config)
        self._headers_seconds = config.headers_seconds

    async def Generate(  # noqa: N802
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> inference_pb2.GenerateResponse:
        """Run a request to its end, and return one response."""
        caller = _caller("Generate", context)
        async with self._inference.generate(decode_generate(request), caller) as generation:
            return encode_answer(await self._with_headers(generation.answer(), context))

    async def Stream(  # type: ignore[override]  # noqa: N802
        self, request: inference_pb2.GenerateRequest, context: Context
    ) -> None:
        """Run a request, and write its output as it comes."""
        caller = _caller("Stream", context)
        async with self._inference.generate(decode_generate(request), caller) as generation:
            await self._with_headers(generation.started(), context)
            with self._timeouts.writer(context) as writer:
                async for event in generation.events():
                    await writer.write(encode_event(event))

    async def Tokenize(  # noqa: N802
        self, request: inference_pb2.TokenizeRequest, context: Context
    ) -> inference_pb2.TokenizeResponse:
        """Tokenize a text."""
        caller = _caller("Tokenize", context)
        return encode_tokens(await self._inference.tokenize(decode_tokenize(request), caller))

    async def Detokenize(  # noqa: N802
        self, request: inference_pb2.DetokenizeRequest, context: Context
    ) -> inference_pb2.DetokenizeResponse:
        """Detokenize tokens."""
        caller = _caller("Detokenize", context)
        model, text = await self._inference.detokenize(decode_detokenize(request), caller)
        return inference_pb2.DetokenizeResponse(model=model, text=text)

    async def _with_headers(self, waiting: Coroutine[Any, Any, T], context: Context) -> T:
        """Wait; send the response headers if the wait takes long."""
        task = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({task}, timeout=self._headers_seconds)
            if not task.done():
                await context.send_initial_metadata(())
            return await task
        finally:
            task.cancel()


def _caller(rpc: str, context: Context) -> Caller:
    method = f"{SERVICE}/{rpc}"
    return Caller(
        method=method,
        tenant=_tenant(context),
        remaining=context.time_remaining,
        metadata=tuple(context.invocation_metadata() or ()),
        attributes=rpc_attributes(method),
    )


def _tenant(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == TENANT_KEY:
            return value if isinstance(value, str) else value.decode("ascii", "replace")
    return ""
