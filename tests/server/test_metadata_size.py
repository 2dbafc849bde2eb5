"""Metadata up to the limit, and beyond it: what gRPC's library lets pass is counted too."""

from __future__ import annotations

import grpc
import pytest
from raw_connection import framed, raw_connection
from running_server import asked, error_of, serving

from llm_serving_engine.server.message_size import ENTRY_BYTES

LIMIT = 1000
SETTINGS = {"port": 0, "metadata_bytes_max": LIMIT}
NAME = b"x-pad"
OK = grpc.StatusCode.OK.value[0]
REFUSED = "metadata: have 1001 bytes; the limit is 1000"
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.mark.parametrize(("size", "status"), [(LIMIT, OK), (LIMIT + 1, INVALID_ARGUMENT)])
async def test_up_to_the_limit(size: int, status: int) -> None:
    padding = (NAME, b"x" * (size - ENTRY_BYTES - len(NAME)))
    async with serving(grpc=SETTINGS) as server, raw_connection(server.address) as connection:
        number = await connection.call(framed(asked()), headers=(padding,))
        answer = await connection.answer(number)
        assert answer.status == status
        assert answer.message == ("" if status == OK else REFUSED)


async def test_beyond_twice_the_limit() -> None:
    async with serving(grpc=SETTINGS) as server:
        call = server.inference.Generate(asked(), metadata=((NAME.decode(), "x" * 3 * LIMIT),))
        assert (await error_of(call)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
