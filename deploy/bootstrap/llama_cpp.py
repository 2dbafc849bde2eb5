"""Compiles and caches llama-cpp-python's wheel for this machine, without unused parts."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from bootstrap.errors import SetupError
from bootstrap.features import Features, ladder
from bootstrap.jobs import Job
from bootstrap.toolchain import compiler_name

PACKAGE = "llama-cpp-python"
Attempts = Sequence[Mapping[str, str]]
"""Builds that failed: "features" and "failure", as `backends/build_record.py` has them."""

FAULTS = "LSE_TEST_SELF_CHECK"
"""The variable by which tests make self-checks fail: `backends/self_check/faults.py`."""

COMPILER_BYTES = 1 << 30
"""Memory for each compiler that runs: llama.cpp's largest files take most of it."""


class LlamaCppWheel:
    """The wheel for one checkout on one machine.

    It is kept in `.cache/llama-cpp-python/KEY/`, where KEY stands for all that
    the compiled code depends on, so that making .venv/ again costs no
    compilation and a wheel made for another processor is never used. Beside it,
    `build.json` says how it was compiled and what its self-check found.
    """

    def __init__(self, root: Path) -> None:
        self._include = root / "deploy" / "llama-cpp-only.cmake"
        self._header = root / "deploy" / "amx-tile-config.h"
        self._constraints = root / "deploy" / "build-constraints.txt"
        self._requirement = pinned(root / "constraints.txt", PACKAGE)
        self._cache = root / ".cache" / PACKAGE

    @property
    def folder(self) -> Path:
        """The folder of the cached wheel."""
        return self._cache / self.key

    @property
    def path(self) -> Path | None:
        """The wheel, once it is built."""
        return next(self.folder.glob("*.whl"), None)

    @property
    def description(self) -> Path:
        """The file that describes the wheel, for its self-check."""
        return self.folder / "build.json"

    @property
    def remembered(self) -> dict[str, Any]:
        """What the description says; empty where there is none."""
        try:
            content = json.loads(self.description.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    @cached_property
    def key(self) -> str:
        """Names all that the compiled code depends on."""
        parts = (
            self._requirement,
            self._include.read_text(),
            self._header.read_text(),
            self._constraints.read_text(),
            *(os.environ.get(name, "") for name in ("CMAKE_ARGS", "CC", "CXX")),
            platform.system(),
            platform.machine(),
            processor(),
            # Builds whose self-check a test makes fail are kept apart from the others.
            *filter(None, [os.environ.get(FAULTS)]),
        )
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    def builds(self) -> list[Features]:
        """The ways to compile it, the best first."""
        return ladder(processor().split(), os.environ.get("CMAKE_ARGS", ""))

    def build(self, python: Path, log: Path, features: Features) -> Job:
        """The job that builds it with the pip of `python`."""
        # An address, as pip splits the variable's value at spaces.
        constraints = self._constraints.as_uri()
        environment = {
            "CMAKE_ARGS": self._cmake_args(features),
            "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL")
            or str(jobs()),
            # Older pips read the first for what a build needs, newer ones the second.
            "PIP_CONSTRAINT": constraints,
            "PIP_BUILD_CONSTRAINT": constraints,
            # pip keeps the wheels that it builds by name and version, whatever
            # the options were: it must not find one here that has others.
            "PIP_CACHE_DIR": str(self.folder / "pip"),
        }
        command = [str(python), "-m", "pip", "wheel", "-v", "--no-deps"]
        command += ["--no-binary", PACKAGE, "--wheel-dir", str(self._fresh), self._requirement]
        return Job("llama.cpp: compiling", command, log, environment)

    def keep(self, features: Features, attempts: Attempts = ()) -> None:
        """Put the wheel that `build` made where `path` finds it: whole, or not at all.

        Args:
            features: What it was built with.
            attempts: The builds that failed before it.
        """
        built = next(self._fresh.glob("*.whl"))
        self.description.unlink(missing_ok=True)
        built.replace(self.folder / built.name)
        self.describe(features, attempts)
        shutil.rmtree(self._fresh)
        shutil.rmtree(self.folder / "pip", ignore_errors=True)

    def describe(self, features: Features, attempts: Attempts = ()) -> None:
        """Say how the kept wheel was compiled, and which builds failed before it."""
        self.remember(
            {
                "features": features.name,
                "cost": features.cost,
                "needs": features.needs,
                "compiler": compiler_name(),
                "attempts": list(attempts),
            }
        )

    def remember(self, content: Mapping[str, Any]) -> None:
        """Write the description: whole, or not at all."""
        partial = self.description.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(self.description)

    def forget(self) -> None:
        """Drop the wheel and its description."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _fresh(self) -> Path:
        return self.folder / "fresh"

    def _cmake_args(self, features: Features) -> str:
        include = shlex.quote(f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={self._include}")
        own = ["-DLLAVA_BUILD=OFF", include]
        return " ".join([*own, os.environ.get("CMAKE_ARGS", ""), *features.options])


def jobs() -> int:
    """How many compilers run at once: one for each core, where the memory is enough for them."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(os.cpu_count() or 1, memory // COMPILER_BYTES))


def pinned(constraints: Path, package: str) -> str:
    """The requirement, `package==version`, that a constraints file pins."""
    found = re.search(rf"^{re.escape(package)}==[^\s;]+", constraints.read_text(), re.MULTILINE)
    if not found:
        raise SetupError(f"error: {constraints} does not pin {package}")
    return found[0]


def processor() -> str:
    """Return this machine's processor features, for which code is compiled."""
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return platform.processor()
    # The first line that matches, whichever core it is: "flags" on x86, "Features" on Arm.
    found = re.search(r"^(flags|Features)\s*:.*$", information.read_text(), re.MULTILINE)
    return found[0] if found else ""


def processor_name() -> str:
    """Return the processor's name."""
    if platform.system() == "Darwin":
        return processor().strip()
    information = Path("/proc/cpuinfo")
    text = information.read_text() if information.exists() else ""
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
