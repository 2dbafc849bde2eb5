"""Text to tokens and back, outside of any runner."""
