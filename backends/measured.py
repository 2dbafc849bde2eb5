"""What was measured at an earlier load, so that the next one need not measure again.

A measurement holds for one model file, one build of the library, and one
machine. Each is a small file of its own in the cache folder: $CACHE_DIRECTORY
(which systemd sets for a service), $XDG_CACHE_HOME, or the system's usual place
in the user's home. A file that is corrupt, or a folder that cannot be
written, costs a measurement and nothing else.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.build_record import identity, library_folder
from llm_serving_engine.backends.cpu import code_flags, cpu_name

Scalar = str | int | float | bool

FILES_MAX = 512
# Seconds of a call, and ratios: what is more is damage.
FIGURE_MAX = 1e6
_FORMAT = 1
_FOLDER = Path("llm-serving-engine", "measured")
# Both ends of a model's file: its header is at the start.
_SAMPLE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a measurement holds for.

    Attributes:
        model: The model's file, whatever it is called and wherever it is.
        build: The library.
        machine: The processor, and how much of it there is for this process.
    """

    model: str
    build: str
    machine: str

    @classmethod
    def of(cls, path: Path) -> Circumstances:
        """A model file, the installed llama.cpp, and this machine. Raises OSError."""
        folder = library_folder()
        here = (cpu_name(), *sorted(code_flags()), str(machine.compute_threads()))
        return cls(
            model=_sampled(path),
            build=identity(folder) if folder else "",
            machine=_digest("\0".join(here).encode()),
        )


@dataclass(frozen=True, slots=True)
class Measured:
    """One choice that a measurement led to.

    Attributes:
        subject: What was chosen, such as "kernels".
        given: The settings that it was measured under, such as the threads.
        values: What was chosen: settings and their values.
        figures: What was measured, in the unit that each name ends with.
        reason: The choice in words, for people.
        date: When, as YYYY-MM-DD.
    """

    subject: str
    given: Mapping[str, Scalar]
    values: Mapping[str, Scalar]
    figures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())


class MeasuredStore:
    """The choices that are remembered."""

    def __init__(self, circumstances: Circumstances, folder: Path | None = None) -> None:
        """Open it.

        Args:
            circumstances: What choices are recalled and remembered for.
            folder: Where the files are. Default: in the user's cache folder.
        """
        self._circumstances = circumstances
        self._folder = folder or _cache_folder()

    @classmethod
    def of(cls, path: Path) -> MeasuredStore | None:
        """What is remembered for a model file; None where the file cannot be read."""
        try:
            return cls(Circumstances.of(path))
        except OSError:
            return None

    def recall(self, subject: str, given: Mapping[str, Scalar]) -> Measured | None:
        """What was measured of a subject under the same settings; None where nothing was."""
        path = self._path(subject, given)
        if path is None:
            return None
        try:
            measured = _parse(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        same = measured.subject == subject and dict(measured.given) == dict(given)
        return measured if same else None

    def remember(self, measured: Measured) -> bool:
        """Keep a choice for the next load; False where that could not be done."""
        path = self._path(measured.subject, measured.given)
        if path is None:
            return False
        content = {
            "format": _FORMAT,
            "circumstances": asdict(self._circumstances),
            "measured": asdict(measured),
        }
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_oldest(path.parent)
            _write_whole(path, json.dumps(content, indent=1) + "\n")
        except OSError:
            return False
        return True

    def _path(self, subject: str, given: Mapping[str, Scalar]) -> Path | None:
        if self._folder is None:
            return None
        key = [asdict(self._circumstances), subject, dict(given)]
        name = _digest(json.dumps(key, sort_keys=True).encode())
        return self._folder / f"{subject}-{name}.json"


def _parse(content: object) -> Measured:
    """What a file says. Raises ValueError, TypeError, or KeyError where it makes no sense."""
    if not isinstance(content, dict) or content["format"] != _FORMAT:
        raise ValueError("another format")
    measured = Measured(**content["measured"])
    texts = (measured.subject, measured.reason, measured.date)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("not a text")
    _check(measured.given, (str, int, float))
    _check(measured.values, (str, int, float))
    _check(measured.figures, (int, float))
    if not all(0 <= figure < FIGURE_MAX for figure in measured.figures.values()):
        raise ValueError("no time, and no ratio")
    return measured


def _check(table: object, kinds: tuple[type, ...]) -> None:
    """Raise TypeError where it is not a table with values of these kinds."""
    if not isinstance(table, dict) or not all(isinstance(one, kinds) for one in table.values()):
        raise TypeError("another type")


def _cache_folder() -> Path | None:
    """The folder of the files; None where the user has no place for caches."""
    for name in ("CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        named = os.environ.get(name, "").partition(":")[0]
        if named and Path(named).is_absolute():
            return Path(named) / _FOLDER
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / _FOLDER


def _drop_oldest(folder: Path) -> None:
    """Make room for one more file."""
    dated = sorted((path.stat().st_mtime, path) for path in folder.glob("*.json"))
    for _, path in dated[: max(len(dated) - FILES_MAX + 1, 0)]:
        path.unlink(missing_ok=True)


def _write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _sampled(path: Path) -> str:
    """A digest of a file's size and of both its ends: reading it all would take too long."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(_SAMPLE_BYTES)
        file.seek(max(size - _SAMPLE_BYTES, 0))
        end = file.read(_SAMPLE_BYTES)
    return _digest(str(size).encode() + start + end)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
