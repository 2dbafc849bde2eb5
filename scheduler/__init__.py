"""The request lifecycle and the scheduling of steps: pure policy, and the engine that drives it.

This package imports the standard library only. `core.Scheduler` decides, and
knows neither clock nor I/O; `engine.Engine` carries its decisions to a runner.
"""
