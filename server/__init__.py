"""The server: RPC services, HTTP, configuration, telemetry, and their composition."""
