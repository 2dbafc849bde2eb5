"""Streams against a server, read with as little work as can be: raw stubs and sockets."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.parse
import uuid
from dataclasses import dataclass

import grpc

from llm_serving_engine.v1 import inference_pb2, inference_pb2_grpc


@dataclass(frozen=True)
class Arrivals:
    """When the tokens of one stream came, in seconds of the monotonic clock."""

    times: tuple[float, ...]


async def stream_all(
    address: str, streams: int, *, prompt_tokens: int, max_tokens: int
) -> list[Arrivals]:
    """Run that many streams at once: greedy, to the last token, each with its own prompt."""
    salt = uuid.uuid4().hex
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)

        async def one(number: int) -> Arrivals:
            tokens = [1000 + 97 * number + place for place in range(prompt_tokens)]
            request = inference_pb2.GenerateRequest(
                max_tokens=max_tokens, ignore_eos=True, cache_salt=f"{salt}/{number}"
            )
            request.prompt_tokens.ids.extend(tokens)
            request.sampling.temperature = 0.0
            times = []
            async for event in stub.Stream(request):
                now = time.monotonic()
                times += [now] * len(event.delta.token_ids)
            return Arrivals(tuple(times))

        return await asyncio.gather(*map(one, range(streams)))


async def stream_all_http(
    url: str, streams: int, *, prompt_tokens: int, max_tokens: int
) -> list[Arrivals]:
    """The same over HTTP, each stream on a connection of its own."""
    salt = uuid.uuid4().hex
    host = urllib.parse.urlsplit(url)

    async def one(number: int) -> Arrivals:
        body = {
            "prompt": [1000 + 97 * number + place for place in range(prompt_tokens)],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "cache_salt": f"{salt}/{number}",
            "temperature": 0,
            "stream": True,
        }
        data = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}"
        reader, writer = await asyncio.open_connection(host.hostname, host.port)
        writer.write(head.encode() + b"\r\n\r\n" + data)
        times: list[float] = []
        while not (block := await reader.readuntil(b"\n\n")).endswith(b"[DONE]\n\n"):
            times += [time.monotonic()] * block.count(b'"finish_reason":null')
        writer.close()
        return Arrivals(tuple(times))

    return await asyncio.gather(*map(one, range(streams)))


def decode_rate(streams: list[Arrivals]) -> float:
    """Tokens a second while all streams decode: from the last's first to the first's last."""
    start = max(stream.times[0] for stream in streams)
    end = min(stream.times[-1] for stream in streams)
    tokens = sum(start < time <= end for stream in streams for time in stream.times)
    return tokens / (end - start)
