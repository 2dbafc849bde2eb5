"""Addresses to listen on."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from running_server import asked, serving

from llm_serving_engine.server.addresses import Address, bind, parse_address
from llm_serving_engine.server.config import ConfigError
from llm_serving_engine.v1 import inference_pb2_grpc


def has_ipv6() -> bool:
    try:
        bind(Address("::1", 0)).close()
    except OSError:
        return False
    return True


LONGEST = 107 if sys.platform == "linux" else 103
NEEDS_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("localhost:80", Address("localhost", 80)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("[::1]:65535", Address("::1", 65535)),
        ("unix:/run/a.sock", Address(path="/run/a.sock")),
        ("unix:///run/a.sock", Address(path="/run/a.sock")),
        ("unix:a:b", Address(path="a:b")),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["", "localhost", ":80", "a:b", "a:65536", "::1:80", "[::1]", "unix:", "a:-1"],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|brackets"):
        parse_address(text)


def test_the_longest_path_of_a_socket(socket_folder: Path) -> None:
    longest = str(socket_folder / "socket").ljust(LONGEST, "x")
    bind(Address.of(f"unix:{longest}", 0)).close()
    with pytest.raises(ValueError, match=f"too long; a socket's path has {LONGEST} bytes"):
        parse_address(f"unix:{longest}x")


def test_hosts_with_and_without_brackets() -> None:
    assert Address.of("[::]", 1) == Address.of("::", 1) == Address("::", 1)
    assert Address.of("unix:/a", 1) == Address(path="/a")


def test_a_path_that_an_ended_server_left(socket_folder: Path) -> None:
    path = str(socket_folder / "left.sock")
    bind(Address(path=path)).close()
    assert Path(path).is_socket()
    bind(Address(path=path)).close()


def test_a_path_that_is_taken(socket_folder: Path) -> None:
    path = socket_folder / "taken.sock"
    with bind(Address(path=str(path))), pytest.raises(OSError, match="in use"):
        bind(Address(path=str(path)))
    path.unlink()
    path.write_text("precious")
    with pytest.raises(OSError, match="not a socket"):
        bind(Address(path=str(path)))
    assert path.read_text() == "precious"


async def test_grpc_on_several_addresses(socket_folder: Path) -> None:
    path = f"unix:{socket_folder / 'grpc.sock'}"
    async with serving(grpc={"port": 0, "listen": ["127.0.0.1:0", path]}) as server:
        addresses = list(map(str, server.app.grpc_addresses))
        assert addresses[-1] == path
        assert len(set(addresses)) == 3
        for address in addresses:
            async with grpc.aio.insecure_channel(address) as channel:
                stub = inference_pb2_grpc.InferenceServiceStub(channel)
                assert (await stub.Generate(asked())).text


async def test_a_path_that_grpc_cannot_have(socket_folder: Path) -> None:
    path = socket_folder / "precious"
    path.write_text("precious")
    with pytest.raises(ConfigError, match=f"unix:{path} for gRPC: .* not a socket"):
        async with serving(grpc={"host": f"unix:{path}"}):
            pass


@pytest.mark.parametrize("part", ["grpc", "http"])
async def test_a_host_that_is_no_address(part: str) -> None:
    host: dict[str, Any] = {part: {"host": "999.1.1.1", "port": 0}}
    with pytest.raises(ConfigError, match=r"cannot listen on 999.1.1.1:0 .*: .*(known|resol)"):
        async with serving(**host):
            pass


async def test_a_port_that_grpc_cannot_have() -> None:
    with bind(Address("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port} for gRPC: Address already in use"):
            async with serving(grpc={"port": port}):
                pass


@NEEDS_IPV6
async def test_all_addresses_of_ipv6() -> None:
    async with serving(grpc={"host": "::", "port": 0}, http={"host": "::", "port": 0}) as server:
        (address,) = server.app.grpc_addresses
        assert str(address) == f"[::]:{address.port}"
        async with grpc.aio.insecure_channel(f"[::1]:{address.port}") as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            assert (await stub.Generate(asked())).text
        for family, host in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")):
            with socket.socket(family) as client:
                client.connect((host, server.app.http_port))
