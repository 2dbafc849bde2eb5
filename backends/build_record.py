"""Reads and writes the record of the installed llama.cpp: its build, and its self-check.

`make setup` writes the record beside the libraries. A llama-cpp-python that was
installed otherwise has none.
"""

from __future__ import annotations

import enum
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE_NAME = "llm-serving-engine-build.json"
_PACKAGE = "llama_cpp"
_LIBRARIES = ("*.so", "*.dylib")


class Outcome(enum.Enum):
    """The self-check's result for a weight type."""

    OK = "ok"
    WRONG = "wrong"  # the logits are too far from the reference, or not finite
    CRASH = "crash"  # a signal, or an error, ended the process
    HANG = "hang"  # the process did not answer in time


@dataclass(frozen=True)
class Check:
    """The self-check of one weight type.

    Attributes:
        outcome: What it found.
        error: The logits' distance from the reference, relative to their size; None
            where there were none.
        detail: What failed, for people; empty where nothing did.
    """

    outcome: Outcome
    error: float | None = None
    detail: str = ""


@dataclass(frozen=True)
class Attempt:
    """A build that failed.

    Attributes:
        features: Its name, as in `BuildRecord.features`.
        failure: What failed, for people.
    """

    features: str
    failure: str


@dataclass(frozen=True)
class BuildRecord:
    """How the installed llama.cpp was compiled, and whether it computes right.

    Attributes:
        features: "full" (all that the CPU has), "no-amx", "no-avx512", "baseline", or
            "portable" (not compiled for one CPU).
        cost: What fewer features cost, for people; empty for "full" and "portable".
        compiler: The first line of the C++ compiler's `--version`; empty if unknown.
        cpu: The name of the CPU that it was checked on.
        cpu_flags: The flags of that CPU.
        needs: The flags without which this build dies of SIGILL.
        library_features: What llama.cpp says that it was compiled with, such as "AVX2".
        checks: By weight type, such as "Q4_0"; empty if the self-check did not run.
        attempts: The builds that failed before this one, in their order.
        libraries: Stands for the library files that all this is about.
    """

    features: str
    cost: str = ""
    compiler: str = ""
    cpu: str = ""
    cpu_flags: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    library_features: tuple[str, ...] = ()
    checks: Mapping[str, Check] = field(default_factory=dict)
    attempts: tuple[Attempt, ...] = ()
    libraries: str = ""

    @property
    def checked(self) -> bool:
        """Whether the self-check ran."""
        return bool(self.checks)

    @property
    def ok(self) -> bool:
        """Whether the self-check ran and found nothing wrong."""
        return self.checked and not self.failures

    @property
    def failures(self) -> dict[str, Check]:
        """The weight types that are not ok."""
        return {
            name: check for name, check in self.checks.items() if check.outcome is not Outcome.OK
        }

    def missing(self, flags: frozenset[str]) -> list[str]:
        """Return the flags that this build needs and a CPU with these flags lacks, in order."""
        return sorted(set(self.needs) - flags)

    def to_json(self) -> dict[str, Any]:
        """The record as `json` writes it."""
        checks = {
            name: {**asdict(check), "outcome": check.outcome.value}
            for name, check in self.checks.items()
        }
        return {**asdict(self), "checks": checks}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> BuildRecord:
        """Parse the output of `to_json`. Raises KeyError, TypeError, or ValueError."""
        checks = {
            name: Check(Outcome(check["outcome"]), check["error"], check["detail"])
            for name, check in content["checks"].items()
        }
        attempts = tuple(Attempt(**attempt) for attempt in content["attempts"])
        flags = {name: tuple(content[name]) for name in ("cpu_flags", "needs", "library_features")}
        return cls(**{**content, **flags, "checks": checks, "attempts": attempts})


def library_folder() -> Path | None:
    """Return the folder of the installed llama.cpp's libraries; None if it is not installed."""
    override = os.environ.get("LLAMA_CPP_LIB_PATH")  # llama-cpp-python loads from there
    if override:
        return Path(override)
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "lib"


def read_build_record(folder: Path | None = None) -> BuildRecord | None:
    """The record of the installed llama.cpp.

    Args:
        folder: The libraries' folder; `library_folder()` by default.

    Returns:
        None where there is none, or where it is about other libraries than those.
    """
    folder = folder or library_folder()
    if folder is None:
        return None
    try:
        record = BuildRecord.from_json(json.loads((folder / FILE_NAME).read_text()))
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return record if record.libraries == identity(folder) else None


def write_build_record(record: BuildRecord, folder: Path) -> None:
    """Write the record beside the libraries in `folder`: whole, or not at all."""
    path = folder / FILE_NAME
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record.to_json(), indent=1) + "\n")
    partial.replace(path)


def identity(folder: Path) -> str:
    """Stands for the library files in a folder: their names and sizes."""
    files = sorted(path for pattern in _LIBRARIES for path in folder.glob(pattern))
    listed = "\n".join(f"{path.name} {path.stat().st_size}" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]
