"""What requests over HTTP leave behind in metrics and in the log, refused ones too."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest
from http_pages import samples
from raw_http import raw_http
from running_server import HTTP, RunningServer, gated


@pytest.fixture
async def http(scripted: RunningServer) -> Any:
    """A client of the shared server, which records what it logs."""
    address = f"http://127.0.0.1:{scripted.app.http_port}"
    async with httpx.AsyncClient(base_url=address, trust_env=False, timeout=None) as client:
        yield client


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if hasattr(record, "fields")]


@pytest.mark.parametrize(
    ("body", "error", "status"),
    [
        (b"{", "bad_body", 400),
        (b"[]", "bad_body", 400),
        (b'{"prompt": 7}', "invalid_field", 400),
        (b'{"prompt": "x", "top_k": -2}', "invalid_field", 400),
        (b'{"prompt": "x", "guided_regex": "a"}', "invalid_field", 400),
        (b'{"prompt": "x", "timeout": 0}', "invalid_field", 400),
        (b'{"prompt": ""}', "invalid_field", 400),
        (b'{"prompt": "x", "model": "y"}', "unknown_model", 404),
    ],
)
async def test_every_refusal_is_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture, body: bytes, error: str, status: int
) -> None:
    async with gated(http=HTTP) as server, raw_http(server) as connection:
        with caplog.at_level(logging.INFO, "llm_serving_engine.requests"):
            connection.post("/v1/completions", body)
            assert (await connection.head()).startswith(f"HTTP/1.1 {status} ")
        shown = await samples(server)
    assert shown["llm_serving_engine_requests_total refused"] == 1
    assert shown[f"llm_serving_engine_errors_total {error}"] == 1
    (line,) = lines(caplog)
    assert line["rpc"] == "POST /v1/completions"
    assert line["outcome"] == "refused"
    assert line["error"] == error


async def test_bodies_that_are_too_large() -> None:
    async with gated(http={**HTTP, "body_bytes_max": 100}) as server:
        async with raw_http(server) as connection:
            connection.post("/v1/completions", b" " * 100)
            # It is read, and then refused for what is in it.
            assert (await connection.head()).startswith("HTTP/1.1 400 ")
        async with raw_http(server) as connection:
            connection.post("/v1/completions", b" " * 101)
            assert (await connection.head()).startswith("HTTP/1.1 413 ")
        shown = await samples(server)
    assert shown["llm_serving_engine_refusals_total body_too_large"] == 1


async def test_what_no_endpoint_sees() -> None:
    async with gated(http=HTTP) as server:
        async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
            address = f"http://127.0.0.1:{server.app.http_port}"
            unknown = await client.post(f"{address}/v1/nothing")
            method = await client.get(f"{address}/v1/chat/completions")
            await client.get(address, headers={"host": "evil.example"})
        shown = await samples(server)
    assert (unknown.status_code, method.status_code) == (404, 405)
    assert unknown.json()["error"]["code"] == "unknown_path"
    assert method.headers["allow"] == "POST"
    for reason in ("unknown_path", "method", "forbidden_host"):
        assert shown[f"llm_serving_engine_http_refused_total {reason}"] == 1


async def test_the_requests_id_is_in_the_log_and_in_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with gated(http=HTTP) as server, raw_http(server) as connection:
        server.runner.open()
        with caplog.at_level(logging.INFO, "llm_serving_engine.requests"):
            body = {"prompt": "x", "max_tokens": 2}
            connection.post("/v1/completions", body, **{"x-request-id": "mine"})
            assert "x-request-id: mine\r\n" in await connection.head()
        (line,) = lines(caplog)
    assert line["request_id"] == "mine"
    assert line["rpc"] == "POST /v1/completions"


async def test_ids_that_cannot_be_one_are_replaced() -> None:
    async with gated(http=HTTP) as server, raw_http(server) as connection:
        server.runner.open()
        connection.post("/v1/messages", {}, **{"x-request-id": "a" * 129})
        head = await connection.head()
    assert "a" * 129 not in head
    assert "x-request-id: " in head
    assert "\r\nrequest-id: " in head
