"""What busy processes beside it cost a runner, with and without `yield_cores`.

    .venv/bin/python tests/benchmarks/busy_cores.py MODEL [--rows 4] [--busy 1] [--seconds 10]

Runs the backend in this process: decode steps on the quiet machine, then beside
processes that do nothing but take a core each, then on the quiet machine again.
"""

from __future__ import annotations

import argparse
import time

from busy_processes import busy
from step_overhead import first_steps, next_step

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.follow import Follower
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend

STEPS_MAX = 1500  # what a sequence's context has room for


def tokens_per_second(backend: LlamaCppBackend, rows: int, seconds: float) -> tuple[float, int]:
    """Of decoding for so long, and how many threads computed the last step."""
    follower = Follower(backend.execute)
    for step in first_steps(rows, 0.0):
        result = follower.execute(step)
    started = time.perf_counter()
    number = 0
    while number < STEPS_MAX and time.perf_counter() - started < seconds:
        result = follower.execute(next_step(number, rows))
        number += 1
    speed = number * rows / (time.perf_counter() - started)
    for slot in range(rows):
        backend._model.clear(slot)
    return speed, result.threads


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--busy", type=int, default=1, help="processes that each want a core")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    options = parser.parse_args()
    print("yield_cores  beside  tokens/s  threads in the end")
    for yields in (False, True):
        config = BackendConfig(yield_cores=yields)
        backend = LlamaCppBackend(options.model, config, lambda fraction: None)
        for beside in (0, options.busy, 0):
            with busy(beside):
                speed, threads = tokens_per_second(backend, options.rows, options.seconds)
            print(f"{yields!s:>11}{beside:8}{speed:10.1f}{threads:9}", flush=True)
        backend.close()


if __name__ == "__main__":
    main()
