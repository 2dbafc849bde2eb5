"""The simulated loads of `scheduler_constants.py` with the costs of two kinds of kernels.

    PYTHONPATH=tests/fixtures python tests/benchmarks/kernel_costs.py

Both are of one machine with AMX, from what llama-batched-bench told of SmolLM2-135M in Q4_0
there (two threads): tokens/s of prompts of 256 tokens (repacked 930, AMX 1,770), and of 1, 4,
and 16 rows (repacked 92, 239, 349; AMX 103, 174, 233). AMX's calls cost 20 ms before the first
token: chunks of 64, 128, and 512 go at 663, 809, and 989 tokens/s.
"""

from __future__ import annotations

import random

from scheduler_constants import LOADS, Lane, drawn, figures

from llm_serving_engine.scheduler.cost import TRANSFERS
from llm_serving_engine.server.simulator.costs import Costs

KINDS = {
    "repacked": Costs(0.0084, 0.0020, 0.0010, 0.006, 0.00098, 0.0007, *TRANSFERS),
    "AMX": Costs(0.0063, 0.0036, 0.0010, 0.020, 0.00050, 0.0007, *TRANSFERS),
}


def shared_prefix(dice: random.Random) -> list[Lane]:
    """Prompts with a common beginning, at once."""
    common = drawn(dice, 800)
    return [[(common + drawn(dice, 90), 16)] for _ in range(16)]


def main() -> None:
    """Print the figures of each load with each kind."""
    for load, lanes in {**LOADS, "shared prefix": shared_prefix}.items():
        for kind, costs in KINDS.items():
            print(f"{load:19}{kind:9} {figures(costs, lanes)}", flush=True)


if __name__ == "__main__":
    main()
