"""Commands that need the server's packages: serve, and models."""
