"""Checks the tools that compiling llama-cpp-python needs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess

from bootstrap.errors import SetupError

CMAKE_VERSION_MIN = (3, 21)
COMPILERS = (
    ("C compiler", "CC", ("cc", "gcc", "clang"), "gcc"),
    ("C++ compiler", "CXX", ("c++", "g++", "clang++"), "g++"),
)
"""What for, the variable that names it, the usual commands, Debian's package."""


def check_toolchain() -> None:
    """Raise SetupError with a line for each thing that is missing."""
    missing = [*_missing_compilers(), *_missing_cmake()]
    if missing:
        raise SetupError("\n".join(f"error: {line}" for line in missing))


def compiler_name() -> str:
    """The first line of what the C++ compiler says of its version; empty where there is none."""
    commands = [shlex.split(os.environ["CXX"])] if os.environ.get("CXX") else []
    for command in commands or [[name] for name in COMPILERS[1][2]]:
        lines = _answers(*command).splitlines()
        if lines:
            return lines[0]
    return ""


def _missing_compilers() -> list[str]:
    return [
        f"a {what} is needed to build llama.cpp; Debian and Ubuntu: apt install {debian}, "
        f"Fedora: dnf install {debian.replace('g++', 'gcc-c++')}, macOS: xcode-select --install; "
        f"or name one: {variable}=/path/to/compiler"
        for what, variable, commands, debian in COMPILERS
        if not any(_answers(command) for command in _named(variable) or commands)
    ]


def _named(variable: str) -> tuple[str, ...]:
    """The command that the environment asks for: `CXX="ccache g++"` asks for ccache."""
    words = shlex.split(os.environ.get(variable, ""))
    return tuple(words[:1])


def _missing_cmake() -> list[str]:
    remedy = (
        "Debian and Ubuntu: apt install cmake, Fedora: dnf install cmake, macOS: brew install cmake"
    )
    needed = ".".join(map(str, CMAKE_VERSION_MIN))
    output = _answers("cmake")
    if not output:
        return [f"CMake {needed} or newer is needed to build llama.cpp; {remedy}"]
    found = re.search(r"version (\d+)\.(\d+)", output)
    if found and (int(found[1]), int(found[2])) < CMAKE_VERSION_MIN:
        return [f"CMake {needed} or newer is needed, this is {found[1]}.{found[2]}; {remedy}"]
    return []


def _answers(command: str, *arguments: str) -> str:
    """What a command says of its version; empty where it is missing or does not work.

    Asking is more than looking: macOS has a /usr/bin/cc that does nothing
    until the developer tools are installed.
    """
    if not shutil.which(command):
        return ""
    words = [command, *arguments, "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""
