"""Converts text to tokens and back, outside of any runner."""
