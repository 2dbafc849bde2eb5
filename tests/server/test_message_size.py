"""Requests that are too large, or have too much in them, are refused before they are parsed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from http_pages import samples
from hypothesis import given
from hypothesis import strategies as st
from running_server import RunningServer, detail, error_of, gated

from llm_serving_engine.server.message_size import (
    UNCOUNTED_BYTES_MAX,
    MessageLimits,
    MessageTooLarge,
)
from llm_serving_engine.v1 import inference_pb2

GENERATE = "/llm_serving_engine.v1.InferenceService/Generate"
KIND = inference_pb2.GenerateRequest.DESCRIPTOR
KIB = 1024
MIB = 1 << 20


def length_delimited(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    data = b""
    while value >= 0x80:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])


def limits(fields_max: int = 100_000, string_bytes_max: int = 16 * MIB) -> MessageLimits:
    return MessageLimits(16 * MIB, fields_max, string_bytes_max, KIB)


def refused(data: bytes, checked: MessageLimits) -> str:
    with pytest.raises(MessageTooLarge) as raised:
        checked.check(data, KIND)
    return raised.value.field


def test_bytes() -> None:
    at = inference_pb2.GenerateRequest(prompt="a" * (MIB - 4)).SerializeToString()
    assert len(at) == MIB
    exact = MessageLimits(MIB, 10, MIB, KIB)
    exact.check(at, KIND)
    with pytest.raises(MessageTooLarge, match=r"request: has 1.0 MB; the limit is 1 MiB"):
        exact.check(at + b"\0", KIND)


# Each has a number of fields, and one more than 32 KiB in all.
PADDING = length_delimited(3, b"x" * UNCOUNTED_BYTES_MAX)
MANY: list[tuple[str, Callable[[int], bytes]]] = [
    ("", lambda n: length_delimited(8, b"") * n),  # stop
    ("chat", lambda n: length_delimited(5, length_delimited(1, b"") * (n - 1))),
    ("chat.messages", lambda n: length_delimited(5, length_delimited(1, b"\x0a\0" * (n - 2)))),
    ("prompt_tokens", lambda n: length_delimited(4, b"\x08\x01" * (n - 1))),
    ("sampling", lambda n: length_delimited(7, b"\x08\x01" * (n - 1))),
    ("", lambda n: b"\xf8\x07\x01" * n),  # unknown to us
]


@pytest.mark.parametrize(("field", "fields"), MANY)
@pytest.mark.parametrize("limit", [10, 1000])
def test_fields(field: str, fields: Callable[[int], bytes], limit: int) -> None:
    limits(limit + 1).check(PADDING + fields(limit), KIND)
    assert refused(PADDING + fields(limit + 1), limits(limit + 1)) == (field or "request")


def test_packed_numbers() -> None:
    # Two fields around them, and one for the padding.
    numbers = 128 * 97
    limits(100).check(PADDING + length_delimited(4, length_delimited(1, b"\1" * numbers)), KIND)
    more = length_delimited(4, length_delimited(1, b"\1" * (numbers + 1)))
    assert refused(PADDING + more, limits(100)) == "prompt_tokens.ids"


def test_texts() -> None:
    size = UNCOUNTED_BYTES_MAX
    message = length_delimited(5, length_delimited(1, length_delimited(2, b"x" * size)))
    limits(string_bytes_max=size).check(message, KIND)
    assert refused(message, limits(string_bytes_max=size - 1)) == "chat.messages.content"


@given(st.binary(max_size=200))
def test_bytes_that_are_no_message(data: bytes) -> None:
    limits().check(PADDING + data, KIND)


def test_small_messages_are_not_counted() -> None:
    limits(1).check(b"\xf8\x07\x01" * (UNCOUNTED_BYTES_MAX // 3), KIND)


async def call(server: RunningServer, data: bytes) -> grpc.aio.AioRpcError:
    method: Any = server.channel.unary_unary(GENERATE)
    return await error_of(method(data))


async def test_a_caller_is_told(caplog: pytest.LogCaptureFixture) -> None:
    grpc_limits = {"port": 0, "message_bytes_max": MIB, "message_fields_max": 100}
    async with gated(grpc=grpc_limits, http={"port": 0}) as server:
        caplog.set_level(logging.INFO)
        error = await error_of(server.generate("x" * (MIB + 100_000)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == "request: has 1.1 MB; the limit is 1 MiB"
        (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
        assert violation.field == "request"
        error = await error_of(server.generate(stop=["x"] * 20_000))
        assert "can have 100 fields in all" in (error.details() or "")
        error = await error_of(server.generate("x" * 2 * MIB))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert re.search("message larger than max", error.details() or "")
        counted = await samples(server)
        assert counted["llm_serving_engine_errors_total message_too_large"] == 2
        assert counted["llm_serving_engine_errors_total invalid_field"] == 1
        assert counted["llm_serving_engine_requests_total refused"] == 3
        lines = [record.fields for record in caplog.records if hasattr(record, "fields")]
        assert [line["error"] for line in lines] == [
            *("message_too_large", "message_too_large", "invalid_field")
        ]


async def test_bytes_that_no_parser_takes_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    async with gated(http={"port": 0}) as server:
        caplog.set_level(logging.INFO)
        assert (await call(server, b"\xff\xff\xff")).code() is grpc.StatusCode.INVALID_ARGUMENT
        tokenize = server.inference.Tokenize(inference_pb2.TokenizeRequest(model="nothing"))
        assert (await error_of(tokenize)).code() is grpc.StatusCode.NOT_FOUND
        counted = await samples(server)
        assert counted["llm_serving_engine_requests_total refused"] == 2
        lines = [record.fields for record in caplog.records if hasattr(record, "fields")]
        assert [line["status_code"] for line in lines] == ["INVALID_ARGUMENT", "NOT_FOUND"]
