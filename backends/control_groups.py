"""Reads the limits of Linux's control groups: those of a container or a service.

A limit may be set on the process's own group or on any group above it, so all
of them are read, from the process's own up to the root that this process sees.
Both versions are read: a machine may have one, the other, or both at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROCESS_GROUPS = "proc/self/cgroup"
_MOUNTS = "proc/self/mountinfo"
# "No limit" is the largest multiple of a page in version 1.
_UNLIMITED_BYTES = 1 << 62


class MemoryLimit(NamedTuple):
    """The tightest limit on memory.

    Attributes:
        bytes: What the group may take.
        left: What it can still take; pages of files that can be dropped count as free.
    """

    bytes: int
    left: int


class ControlGroups:
    """The groups that this process is in."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Find them.

        Args:
            root: Where /proc and /sys are.
        """
        self._folders: dict[str, list[Path]] = {}
        groups = dict(_process_groups(root))
        for mount in _mounts(root):
            for controller in mount.controllers & groups.keys():
                self._folders[controller] = list(mount.upwards(groups[controller]))

    def cores(self) -> float | None:
        """Return the granted processor time in cores; None without a limit."""
        shares = [_share_v2(folder) for folder in self._folders.get("", ())]
        shares += [_share_v1(folder) for folder in self._folders.get("cpu", ())]
        return min((share for share in shares if share is not None), default=None)

    def memory(self) -> MemoryLimit | None:
        """Return the limit that leaves the least memory; None without a limit."""
        limits = [_memory_v2(folder) for folder in self._folders.get("", ())]
        limits += [_memory_v1(folder) for folder in self._folders.get("memory", ())]
        found = (limit for limit in limits if limit is not None)
        return min(found, key=lambda limit: limit.left, default=None)


class _Mount(NamedTuple):
    """A mounted hierarchy of groups. Version 2 has one, for all controllers: its name is ""."""

    controllers: frozenset[str]
    root: str
    folder: Path

    def upwards(self, group: str) -> Iterator[Path]:
        """The folders of a group and of those above it, up to the mount's own."""
        # A container may see only a part of the hierarchy, mounted as if it were all.
        below = group.removeprefix(self.root) if self.root != "/" else group
        parts = [part for part in below.split("/") if part]
        folder = self.folder.joinpath(*parts)
        if ".." in parts or not folder.is_dir():
            parts = []
        for length in range(len(parts), -1, -1):
            yield self.folder.joinpath(*parts[:length])


def _process_groups(root: Path) -> Iterator[tuple[str, str]]:
    """Controller and group, from lines such as "4:cpu,cpuacct:/user.slice" or "0::/user.slice"."""
    for line in _lines(root / _PROCESS_GROUPS):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        for controller in controllers.split(","):
            yield controller, group


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _lines(root / _MOUNTS):
        before, _, after = line.partition(" - ")
        fields, about = before.split(), after.split()
        if len(fields) < 5 or len(about) < 3 or about[0] not in {"cgroup", "cgroup2"}:
            continue
        options = about[2].split(",") if about[0] == "cgroup" else [""]
        folder = root / _unescaped(fields[4]).lstrip("/")
        yield _Mount(frozenset(options), _unescaped(fields[3]), folder)


def _unescaped(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _share_v2(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    return _share(quota, period)


def _share_v1(folder: Path) -> float | None:
    return _share(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _share(quota: str, period: str) -> float | None:
    """Quota over period; "max" and -1 are no limit."""
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return share if share > 0 else None


def _memory_v2(folder: Path) -> MemoryLimit | None:
    # Above "high" the system slows the group down until it has given memory back.
    limits = [_number(folder / "memory.max"), _number(folder / "memory.high")]
    limit = min((one for one in limits if one is not None), default=None)
    return _left(limit, folder / "memory.current", folder / "memory.stat", "inactive_file")


def _memory_v1(folder: Path) -> MemoryLimit | None:
    limit, usage = folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes"
    return _left(_number(limit), usage, folder / "memory.stat", "total_inactive_file")


def _left(limit: int | None, usage: Path, stat: Path, droppable: str) -> MemoryLimit | None:
    used = _number(usage)
    if limit is None or limit >= _UNLIMITED_BYTES or used is None:
        return None
    held = max(used - fields(stat).get(droppable, 0), 0)
    return MemoryLimit(limit, max(limit - held, 0))


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None  # there is no such file, or it says "max"


def fields(path: Path) -> dict[str, int]:
    """Read a file of lines with a name and a number; empty if it cannot be read."""
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _text(path: Path) -> str:
    return next(iter(_lines(path)), "").strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
