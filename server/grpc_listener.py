"""Makes the gRPC server with its options, services, and ports."""

from __future__ import annotations

import grpc

from llm_serving_engine.server.addresses import Address, bind, parse_address, remove_stale_socket
from llm_serving_engine.server.config import ConfigError, GrpcConfig
from llm_serving_engine.server.interceptor import ErrorInterceptor, Refused
from llm_serving_engine.server.message_size import MessageLimits
from llm_serving_engine.server.rpc_timeouts import RpcTimeouts
from llm_serving_engine.server.unknown_methods import answer_unknown_methods, tolerated

_MILLISECONDS = 1000
# gRPC takes integers of 32 bits, and ends the process for the greatest of them.
_OPTION_MAX = 2**31 - 2


def make_server(
    config: GrpcConfig, string_bytes_max: int, refused: Refused = lambda error: None
) -> grpc.aio.Server:
    """Make a server without services and ports.

    Args:
        config: Its options and limits.
        string_bytes_max: Each text of a request.
        refused: Told of each request that is refused before a handler sees it.
    """
    limits = MessageLimits(
        config.message_bytes_max,
        config.message_fields_max,
        string_bytes_max,
        config.metadata_bytes_max,
    )
    interceptors = [ErrorInterceptor(RpcTimeouts(config), limits, refused)]
    with tolerated():
        server = grpc.aio.server(interceptors=interceptors, options=_options(config))
    answer_unknown_methods(server)
    return server


def listen(server: grpc.aio.Server, config: GrpcConfig) -> tuple[Address, ...]:
    """Bind the ports and return them. Raises ConfigError if one is not available."""
    wanted = (Address.of(config.host, config.port), *map(parse_address, config.listen))
    return tuple(_listen(server, address) for address in wanted)


def _listen(server: grpc.aio.Server, address: Address) -> Address:
    try:
        if address.path:
            remove_stale_socket(address.path)
        port = server.add_insecure_port(str(address))
        if port == 0:
            raise RuntimeError
    except (OSError, RuntimeError) as error:
        problem = error.strerror if isinstance(error, OSError) else _problem(address)
        raise ConfigError(f"cannot listen on {address} for gRPC: {problem}") from error
    return address if address.path else Address(address.host, port)


def _problem(address: Address) -> str:
    """Return the system's reason against an address: the library keeps it to itself."""
    try:
        bind(address).close()
    except OSError as error:
        return error.strerror or str(error)
    return "the library refuses it"


def _options(config: GrpcConfig) -> list[tuple[str, int]]:
    options = {
        # Two servers on one port would take turns, silently.
        "grpc.so_reuseport": 0,
        # Up to twice the limit, a request is refused with our error, details, and
        # log line. Above that the library refuses it before it is read.
        "grpc.max_receive_message_length": 2 * config.message_bytes_max,
        # The same for metadata. Between two limits, the library would refuse at random.
        "grpc.max_metadata_size": 2 * config.metadata_bytes_max,
        "grpc.absolute_max_metadata_size": 2 * config.metadata_bytes_max,
        "grpc.max_allowed_incoming_connections": config.connections_max,
        "grpc.max_concurrent_streams": config.streams_per_connection_max,
        # A client may ping while it waits in the queue or for a long prefill.
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.http2.min_ping_interval_without_data_ms": _ms(config.ping_interval_min_seconds),
        "grpc.keepalive_time_ms": _ms(config.keepalive_seconds),
        "grpc.keepalive_timeout_ms": _ms(config.keepalive_timeout_seconds),
        # Without it, a ping that is not answered ends the connection after a minute only.
        "grpc.http2.ping_timeout_ms": _ms(config.keepalive_timeout_seconds),
        "grpc.max_connection_age_grace_ms": _ms(config.connection_age_grace_seconds),
    }
    if config.connection_age_max_seconds is not None:
        options["grpc.max_connection_age_ms"] = _ms(config.connection_age_max_seconds)
    return [(name, min(value, _OPTION_MAX)) for name, value in options.items()]


def _ms(seconds: float) -> int:
    return round(min(seconds * _MILLISECONDS, _OPTION_MAX))
