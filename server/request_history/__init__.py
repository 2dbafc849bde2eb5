"""The history of the last requests: their state transitions, and explanations made of them."""
