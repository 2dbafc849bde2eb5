"""Runners in processes of their own: the host's side, the worker's, and what passes between."""
