"""Runners as processes: the host's side, the worker's side, and their messages."""
