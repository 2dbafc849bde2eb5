"""Sets up channels to a server, for both clients."""

from __future__ import annotations

from collections.abc import Sequence

ADDRESS = "127.0.0.1:50051"
"""Where a server listens unless told otherwise."""

TENANT_KEY = "x-tenant-id"
PING_TIMEOUT_MS = 20_000

ChannelOptions = list[tuple[str, str | int]]
Metadata = Sequence[tuple[str, str]]


def channel_options(keepalive: float) -> ChannelOptions:
    """The options of a channel, with so many seconds between pings while a call is open.

    Raises:
        ValueError: That is not above 0.
    """
    if keepalive <= 0:
        raise ValueError(f"keepalive: {keepalive} is not above 0")
    return [
        # The answer is as long as the caller asked for.
        ("grpc.max_receive_message_length", -1),
        # Finds a dead server under a request that waits long in the queue.
        ("grpc.keepalive_time_ms", round(keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
        # Without it, a ping that is not answered ends the connection after a minute only.
        ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def call_metadata(tenant: str | None, metadata: Metadata) -> tuple[tuple[str, str], ...]:
    """What goes with every call."""
    return ((TENANT_KEY, tenant), *metadata) if tenant else tuple(metadata)
