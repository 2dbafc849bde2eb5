"""Checks whether the listening addresses are free."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from llm_serving_engine.server.addresses import Address, bind, parse_address
from llm_serving_engine.server.config import ServerConfig
from llm_serving_engine.server.doctor.finding import Finding, problem

SECTION = "ports"


def look_at_ports(config: ServerConfig, served: bool) -> Iterator[Finding]:
    """Try to listen on each address for a moment.

    Args:
        config: The configuration.
        served: Whether a server runs beside this, so that addresses may be in use.
    """
    grpc, http = config.grpc, config.http
    for address in (Address.of(grpc.host, grpc.port), *map(parse_address, grpc.listen)):
        yield _look("gRPC", address, "--port", served)
    if not http.enabled:
        yield Finding(SECTION, "HTTP", "switched off")
        return
    for address in (Address.of(http.host, http.port), *map(parse_address, http.listen)):
        yield _look("HTTP", address, "--http-port", served)


def _look(name: str, address: Address, option: str, served: bool) -> Finding:
    if not address.path and not address.port:
        return Finding(SECTION, name, f"{address}: any free port")
    try:
        if address.path:
            _check_path(address.path)
        else:
            bind(address).close()
    except OSError as error:
        if served:
            return Finding(SECTION, name, f"{address} is in use, as a server runs")
        reason = (error.strerror or str(error)).lower()
        advice = f"stop the process that listens there, or choose another port: {option}"
        return problem(SECTION, name, f"{address} cannot be bound: {reason}", advice)
    return Finding(SECTION, name, f"{address} is free")


def _check_path(path: str) -> None:
    """Raise OSError if a process listens on the socket, or its folder is missing."""
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(2, "the folder does not exist")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return
    raise OSError(98, "address already in use")
