"""The self-check as a command.

    python -m llm_serving_engine.backends.self_check [--json] [--build BUILD.json]

The exit code is 0 if every weight type is computed right, otherwise 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_serving_engine.backends.build_record import (
    BuildRecord,
    identity,
    library_folder,
    read_build_record,
    write_build_record,
)
from llm_serving_engine.backends.cpu import code_flags, cpu_flags, cpu_name, library_flags
from llm_serving_engine.backends.self_check.check import SECONDS_MAX, check_types
from llm_serving_engine.backends.self_check.faults import fault_for

UNKNOWN = "unknown"
"""The features of a build that no record describes."""


def main() -> int:
    """Check, say what was found, and write the record where a build is described."""
    parser = argparse.ArgumentParser(prog="python -m llm_serving_engine.backends.self_check")
    parser.add_argument("--json", action="store_true", help="write the record to stdout")
    parser.add_argument(
        "--build",
        type=Path,
        metavar="FILE",
        help="describes the build: the record is written beside the libraries, with that in it",
    )
    parser.add_argument("--seconds", type=float, default=SECONDS_MAX, help="for each weight type")
    arguments = parser.parse_args()
    folder = library_folder()
    if folder is None:
        sys.stderr.write("error: llama-cpp-python is not installed\n")
        return 1
    build = json.loads(arguments.build.read_text()) if arguments.build else None
    record = _check(_described(build, folder), build, arguments.seconds)
    if build is not None:
        write_build_record(record, folder)
    lines = [json.dumps(record.to_json())] if arguments.json else _lines(record)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0 if record.ok else 1


def _described(build: dict[str, Any] | None, folder: Path) -> BuildRecord:
    """The record of the build without its checks."""
    if build is None:
        return read_build_record(folder) or BuildRecord(UNKNOWN, libraries=identity(folder))
    nothing = BuildRecord("").to_json()
    needs = build.get("needs", ())
    named = {"needs": () if isinstance(needs, str) else needs, "libraries": identity(folder)}
    return BuildRecord.from_json({**nothing, **build, **named})


def _check(record: BuildRecord, build: dict[str, Any] | None, seconds_max: float) -> BuildRecord:
    findings = check_types(seconds_max=seconds_max, fault=fault_for(record.features))
    checked = replace(
        record,
        cpu=cpu_name(),
        cpu_flags=tuple(sorted(cpu_flags())),
        checks=findings.checks,
        library_features=findings.library_features,
    )
    if build is not None and isinstance(build.get("needs"), str):
        of_library = library_flags(findings.library_features) & cpu_flags()
        needs = code_flags() if build["needs"] == "cpu" else of_library
        return replace(checked, needs=tuple(sorted(needs)))
    return checked


def _lines(record: BuildRecord) -> list[str]:
    return [
        f"{name}: {check.outcome.value}"
        + (f", off by {check.error:.5f}" if check.error is not None else "")
        + (f": {check.detail}" if check.detail else "")
        for name, check in record.checks.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
