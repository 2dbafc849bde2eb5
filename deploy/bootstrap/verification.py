"""Verifies llama.cpp with the self-check; after a failure compiles it with fewer CPU features."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bootstrap.console import Console
from bootstrap.errors import SetupError
from bootstrap.features import Features
from bootstrap.llama_cpp import Attempts, LlamaCppWheel, processor_name
from bootstrap.toolchain import compiler_name

SECONDS_MAX = 600.0
"""The time limit of the self-check of all weight types. Without faults it takes 1 s."""

OTHER_LIBRARIES = "LLAMA_CPP_LIB_PATH"
"""The variable that makes llama-cpp-python load libraries from another folder."""

_MODULE = "llm_serving_engine.backends.self_check"
_REMEDIES = (
    "try another compiler (a newer GCC: CC=gcc-14 CXX=g++-14 make setup, or Clang: "
    "CC=clang CXX=clang++ make setup)"
)


@dataclass(frozen=True)
class Steps:
    """The actions of a verification; tests replace them.

    Attributes:
        build: Compiles the wheel with the given features, and caches it with the
            failed attempts before it. Raises SetupError.
        install: Installs the cached wheel. Raises SetupError.
        check: Runs the self-check of the installed wheel with a file that describes
            the build; returns the record that `backends/build_record.py` writes.
            Raises SetupError.
    """

    build: Callable[[Features, Attempts], None]
    install: Callable[[], None]
    check: Callable[[Path], dict[str, Any]]


class Verification:
    """Tries builds in order, from the cached one to those with fewer features."""

    def __init__(
        self, wheel: LlamaCppWheel, builds: Sequence[Features], steps: Steps, console: Console
    ) -> None:
        self._wheel = wheel
        self._builds = list(builds)
        self._steps = steps
        self._console = console

    def run(self) -> None:
        """Install the first wheel that passes the self-check.

        Raises:
            SetupError: No wheel passes. The message names the CPU, the compiler, and
                the attempts.
        """
        while True:
            self._steps.install()
            record = self._steps.check(self._wheel.description)
            self._wheel.remember(record)
            failure = describe_failures(record["checks"])
            if not failure:
                self._console.say(f"self-check: llama.cpp computes right, {self._words(record)}")
                return
            self._build_with_less(record, failure)

    def _build_with_less(self, record: dict[str, Any], failure: str) -> None:
        attempts = [*record["attempts"], {"features": record["features"], "failure": failure}]
        names = [build.name for build in self._builds]
        following = self._builds[names.index(record["features"]) + 1 :]
        if not following:
            raise SetupError(_nothing_works(attempts))
        build = following[0]
        self._console.say(f"self-check: failed, {self._words(record)}: {failure}")
        self._console.say(f"llama.cpp is compiled again {build.title}: {build.cost}")
        self._steps.build(build, attempts)

    def _words(self, record: dict[str, Any]) -> str:
        titles = {build.name: build.title for build in self._builds}
        return titles.get(record["features"], str(record["features"]))


def describe_failures(checks: dict[str, dict[str, Any]]) -> str:
    """Describe the failed checks in a line; empty if none failed."""
    failed = {name: check for name, check in checks.items() if check["outcome"] != "ok"}
    if not checks:
        return "nothing was checked"
    if not failed:
        return ""
    name, check = next(iter(failed.items()))
    others = (
        f" (and {len(failed) - 1} of {len(checks) - 1} other types)"
        if failed.keys() - {name}
        else ""
    )
    return f"{name}: {check['outcome']}: {check['detail']}{others}"


def run_self_check(python: Path, description: Path) -> dict[str, Any]:
    """Run the self-check of the packages installed for `python`; return its record.

    Raises:
        SetupError: The self-check ended without a record.
    """
    command = [str(python), "-m", _MODULE, "--json", "--build", str(description)]
    environment = {name: value for name, value in os.environ.items() if name != OTHER_LIBRARIES}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_MAX,
            env=environment,
        )
        record: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise SetupError(f"error: the self-check did not end in {SECONDS_MAX:g} s") from None
    except ValueError:
        words = done.stderr.strip() or f"exit code {done.returncode}"
        raise SetupError(f"{words}\nerror: the self-check of llama.cpp did not run") from None
    return record


def _nothing_works(attempts: Attempts) -> str:
    lines = [f"{attempt['features']}: {attempt['failure']}" for attempt in attempts]
    return "\n".join(
        [
            *lines,
            "error: llama.cpp computes wrong results on this machine, whatever it is compiled "
            f"with; CPU: {processor_name()}; compiler: {compiler_name() or 'unknown'}; "
            f"{_REMEDIES}",
        ]
    )
