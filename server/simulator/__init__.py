"""The scheduler under virtual time: traces, their replay, and reports on it."""
