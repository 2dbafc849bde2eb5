"""The process that computes the self-check: it may crash or hang.

    python -m llm_serving_engine.backends.self_check.worker TYPE... [--fault FAULT]

It writes one line of JSON when it begins a weight type, and one when it is done with it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_serving_engine.backends.build_record import Check
from llm_serving_engine.backends.llama_library import library
from llm_serving_engine.backends.models.errors import LibraryMissing
from llm_serving_engine.backends.self_check.comparison import compare
from llm_serving_engine.backends.self_check.faults import Fault, spoil
from llm_serving_engine.backends.self_check.tiny_llama import TinyLlama
from llm_serving_engine.backends.self_check.weights import WEIGHT_TYPES


def main() -> int:
    """Check the weight types that the command names; the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("types", nargs="+", choices=WEIGHT_TYPES)
    parser.add_argument("--fault", type=Fault)
    arguments = parser.parse_args()
    os.environ["GGML_NO_BACKTRACE"] = "1"  # an abort would start a debugger
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        features = library().llama_print_system_info().decode()
    except LibraryMissing as error:
        sys.stderr.write(f"{error}\n")
        return 1
    _say(features=features)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.types:
            _say(begins=name)
            check = _check(name, Path(folder) / "model.gguf", arguments.fault)
            _say(done=name, check={**asdict(check), "outcome": check.outcome.value})
    return 0


def _check(name: str, path: Path, fault: Fault | None) -> Check:
    model = TinyLlama(WEIGHT_TYPES[name])
    model.write(path)
    if fault is Fault.CRASH:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault is Fault.HANG:
        signal.pause()
    elif fault is Fault.WRONG:
        spoil(path, model.matrices["output.weight"])
    return compare(name, model, path)


def _say(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
