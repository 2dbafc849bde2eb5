"""A conversation with a model: what was said, where it is shown, and the loop between."""
