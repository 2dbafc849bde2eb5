"""Backends: runners behind the step contract, tokenizers, and finding model files."""
