"""The llama.cpp backend: many sequences in one context, over the library's C API."""
