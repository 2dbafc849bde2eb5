"""The request lifecycle and the scheduling of steps: pure policy, plus the engine that drives a runner.

This package imports the standard library only. `core.Scheduler` decides, and
knows neither clock nor I/O; `engine.Engine` carries its decisions to a runner.
"""
