"""Which pages may use the API: the Host that requests name, and the Origin that they come from."""

from __future__ import annotations

import httpx
import pytest
from running_server import HTTP, RunningServer, gated


async def ask(server: RunningServer, method: str = "GET", **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False, timeout=None) as client:
        url = f"http://127.0.0.1:{server.app.http_port}/v1/models"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.request(method, url, headers=named)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("LocalHost", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("app.localhost", 200),
        ("evil.example", 403),
        ("localhost.evil.example:8080", 403),
        ("192.168.1.7", 403),
    ],
)
async def test_the_host_that_a_request_names(
    scripted: RunningServer, host: str, status: int
) -> None:
    answer = await ask(scripted, host=host)
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "forbidden_host"


async def test_more_hosts_can_be_allowed() -> None:
    async with gated(http={**HTTP, "hosts": ["box.lan"]}) as server:
        assert (await ask(server, host="Box.lan:80")).status_code == 200
        assert (await ask(server, host="other.lan")).status_code == 403
    async with gated(http={**HTTP, "hosts": ["*"]}) as server:
        assert (await ask(server, host="other.lan")).status_code == 200


async def test_beyond_loopback_every_name_is_taken() -> None:
    async with gated(http={**HTTP, "host": "0.0.0.0"}) as server:
        assert (await ask(server, host="box.lan")).status_code == 200


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("http://127.0.0.1", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
    ],
)
async def test_the_origin_of_a_page(scripted: RunningServer, origin: str, allowed: bool) -> None:
    answer = await ask(scripted, origin=origin)
    assert ("access-control-allow-origin" in answer.headers) is allowed
    preflight = await ask(
        scripted,
        "OPTIONS",
        origin=origin,
        access_control_request_method="POST",
        access_control_request_headers="authorization,content-type,x-stainless-lang",
    )
    assert (preflight.status_code == 200) is allowed


async def test_more_origins_can_be_allowed() -> None:
    async with gated(http={**HTTP, "cors_origins": ["https://chat.example"]}) as server:
        answer = await ask(server, origin="https://chat.example")
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
