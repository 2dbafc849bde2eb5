"""The asyncio shell of a scheduler: it has the clock, drives a runner, and delivers tokens."""
