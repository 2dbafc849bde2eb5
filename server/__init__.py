"""The server: RPC services, HTTP, configuration, telemetry, and what composes them."""
