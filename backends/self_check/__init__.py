"""The self-check: whether the installed llama.cpp computes right on this CPU."""
