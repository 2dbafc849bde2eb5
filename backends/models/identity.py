"""Whether a model's file is still the one that was loaded."""

from __future__ import annotations

from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from llm_serving_engine.backends.models.errors import ModelFileError
from llm_serving_engine.backends.models.split import parts_by_name


class FileIdentity(NamedTuple):
    """Distinguishes a file from another one at the same path, without reading it.

    Attributes:
        device: The file system's number.
        inode: The file's number there.
        size: Bytes.
        modified_ns: Time of the last change.
    """

    device: int
    inode: int
    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> tuple[FileIdentity | None, ...]:
        """Return the identity of a file or of each part of a split one; None for no file."""
        return tuple(cls._of_one(part) for part in parts_by_name(path))

    @classmethod
    def _of_one(cls, path: Path) -> FileIdentity | None:
        try:
            stat = path.stat()
        except (OSError, ValueError):
            return None
        if not S_ISREG(stat.st_mode):
            return None
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


def check_unchanged(path: Path, loaded: tuple[FileIdentity | None, ...]) -> None:
    """Let the file pass that was loaded before.

    A server has read the vocabulary of the file that it loaded first: with the
    weights of another one, tokens would mean something else.

    Args:
        path: The file.
        loaded: Its identity when it was loaded.

    Raises:
        ModelFileError: It is gone, or another file has its place.
    """
    now = FileIdentity.of(path)
    if now == loaded:
        return
    if None in now:
        raise ModelFileError(f"{path} was removed while it was served: put it back")
    raise ModelFileError(
        f"{path} was replaced while it was served: restart the server to serve the new file"
    )
