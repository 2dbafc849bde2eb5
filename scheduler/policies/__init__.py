"""The policies that come with the engine."""
