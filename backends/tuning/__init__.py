"""Choosing a runner's settings by measuring them on this machine."""
