"""Inference for every transport: a neutral request in, the same events out."""
