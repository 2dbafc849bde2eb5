"""How a channel to a server is set up, the same for both clients."""

from __future__ import annotations

import json
from collections.abc import Sequence

ADDRESS = "127.0.0.1:50051"
"""Where a server listens unless told otherwise."""

TENANT_KEY = "x-tenant-id"
ATTEMPTS_MAX = 5  # gRPC does not try more often, whatever it is told

ChannelOptions = list[tuple[str, str | int]]
Metadata = Sequence[tuple[str, str]]


def channel_options(attempts: int, keepalive: float) -> ChannelOptions:
    """The options of a channel.

    Args:
        attempts: How often a call is tried at most, from 1 to 5.
        keepalive: Seconds between pings while a call is open.

    Raises:
        ValueError: An argument is out of its range.
    """
    if not 1 <= attempts <= ATTEMPTS_MAX:
        raise ValueError(f"attempts: {attempts} is not from 1 to {ATTEMPTS_MAX}")
    if keepalive <= 0:
        raise ValueError(f"keepalive: {keepalive} is not above 0")
    options: ChannelOptions = [
        # The answer is as long as the caller asked for.
        ("grpc.max_receive_message_length", -1),
        # Finds a dead server under a request that waits long in the queue.
        ("grpc.keepalive_time_ms", round(keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if attempts > 1:
        options.append(("grpc.service_config", retrying_service_config(attempts)))
    return options


def retrying_service_config(attempts: int) -> str:
    """A gRPC service config under which refused calls are tried again, as JSON.

    gRPC itself keeps to the rules: it waits as long as the server's
    `grpc-retry-pushback-ms` says, and tries nothing again of which output has
    already come.
    """
    policy = {
        "maxAttempts": attempts,
        "initialBackoff": "0.2s",
        "maxBackoff": "5s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    return json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})


def call_metadata(tenant: str | None, metadata: Metadata) -> tuple[tuple[str, str], ...]:
    """What goes with every call."""
    return ((TENANT_KEY, tenant), *metadata) if tenant else tuple(metadata)
