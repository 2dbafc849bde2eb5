"""How often a refused request is answered in time when it comes again as it was told to.

    PYTHONPATH=tests/fixtures .venv/bin/python tests/benchmarks/retries.py

Simulated: costs of the built-in model, 16 slots, an overload of two minutes. Each refused
request comes again once. It prints the parts of those that come again while the overload
lasts, and after it.
"""

from __future__ import annotations

from collections.abc import Sequence

from overload_traces import Returning, capacity, offered, server

LOADS, DEADLINES, SECONDS = (2, 4), (5.0, 10.0, 30.0), 120.0


def part(run: Returning, begin: float, end: float) -> str:
    """The part in time of those that came again between two times."""

    def count(times: Sequence[float]) -> int:
        return sum(begin <= at < end for at in times)

    returns = count(run.returns)
    return f"{count(run.in_time) / max(returns, 1):.2f} of {returns}"


def main() -> None:
    """Simulate and print."""
    settings = server()
    for mixed in (False, True):
        requests = capacity(settings, mixed=mixed)[1]
        for load in LOADS:
            for deadline in DEADLINES:
                run = Returning(offered(load * requests, SECONDS, deadline, mixed=mixed), settings)
                run.run()
                during, after = part(run, 0.0, SECONDS), part(run, SECONDS, float("inf"))
                sizes = "mixed sizes" if mixed else "one size"
                print(f"{sizes}, {load}x, {deadline:g} s: {during} during it, {after} after it")


if __name__ == "__main__":
    main()
