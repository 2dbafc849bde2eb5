"""The ctransformers backend: sequences stepped in turn, over its library's C API."""
