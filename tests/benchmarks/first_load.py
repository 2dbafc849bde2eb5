"""What first loads of a model choose, alone and beside processes that compute.

    .venv/bin/python tests/benchmarks/first_load.py MODEL [--busy 0 1 2] [--share 1.0] [--loads 5]

Each load has a cache folder of its own. After the loads beside others, one more load with
the folder of the last of them says whether it measures again. Nothing else should run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from busy_processes import busy

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.llama_cpp.speed_choice import _Trials
from llm_serving_engine.scheduler.cost import CostModel, step_target


def print_seconds(name: str) -> None:
    """Print what each call of a method of the trials takes, also one that is repeated."""
    method: Any = getattr(_Trials, name)

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        choice = method(*arguments)
        took = time.perf_counter() - began
        print(
            f"{'':12}{name[1:]} measured in {took:.2f} s{'' if choice.lasting else ', disturbed'}"
        )
        return choice

    setattr(_Trials, name, timed)


def load(path: str, label: str) -> None:
    """Load once, and print what was chosen."""
    began = time.perf_counter()
    backend = LlamaCppBackend(path, BackendConfig(), lambda fraction: None)
    seconds = time.perf_counter() - began
    report = backend.report
    can = report.capabilities
    backend.close()
    target = step_target(CostModel(can.speeds), can)
    print(f"{label:12}{seconds:6.2f} s  unit {can.chunk:3}  step target {target:.3f} s")
    for note in report.notes:
        print(f"{'':12}{note}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--loads", type=int, default=5)
    options = parser.parse_args()
    path = str(options.model)
    print_seconds("_attention")
    print_seconds("_unit")
    for count in options.busy:
        with busy(count, options.share):
            for _ in range(options.loads):
                os.environ["CACHE_DIRECTORY"] = tempfile.mkdtemp()
                load(path, f"beside {count}")
        if count:
            load(path, "afterwards")


if __name__ == "__main__":
    main()
