"""The request lifecycle and the scheduling of steps: pure, on the standard library only.

`core.Scheduler` decides, and knows neither clock nor I/O. The asyncio engine that
carries its decisions to a runner is in `server/engine/`.
"""
