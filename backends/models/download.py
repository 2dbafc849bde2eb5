"""Downloads a file over HTTP: resumes after a break, and checks the complete file.

An incomplete download stays beside the file's place, in `NAME.VERSION.part`, also
when the process ends. The next download continues it.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llm_serving_engine.backends.models.errors import HubError, HubUnreachable

_TRIES = 5
_DELAY_FIRST_SECONDS = 0.5
_CHUNK_BYTES = 1 << 20
PART_SUFFIX = ".part"
_OK, _PARTIAL, _BEYOND_END = 200, 206, 416


class RemoteFile(NamedTuple):
    """A file to fetch.

    Attributes:
        url: Where it is.
        size: Bytes; None where that is not known.
        sha256: In hexadecimal; None where that is not known.
        version: Identifies the file's content, such as its tag. None if unknown: an
            incomplete download is then discarded.
        headers: The request's headers.
    """

    url: str
    size: int | None = None
    sha256: str | None = None
    version: str | None = None
    headers: Mapping[str, str] = {}


def fetch(remote: RemoteFile, target: Path, *, progress: bool) -> None:
    """Fetch a file, unless it is there.

    Two processes that fetch the same file at the same time do it one after the other.

    Args:
        remote: The file.
        target: Where to put it.
        progress: Show a bar on stderr, where that is a terminal.

    Raises:
        HubUnreachable: The connection fails, again and again.
        HubError: The server refuses, or what it sent is not the file.
        OSError: The file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256((remote.version or "").encode()).hexdigest()[:8]
    part = target.with_name(f"{target.name}.{mark}{PART_SUFFIX}")
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if target.exists():
            part.unlink(missing_ok=True)
            return
        if remote.version is None:
            _restart(file)
        tqdm: Any = importlib.import_module("huggingface_hub.utils").tqdm
        with tqdm(
            total=remote.size,
            unit="B",
            unit_scale=True,
            desc=target.name if len(target.name) < 64 else remote.url.rpartition("/")[2],
            disable=None if progress else True,
        ) as bar:
            _receive_all(remote, file, bar)
        file.flush()
        _check(remote, part)
        part.replace(target)


def _receive_all(remote: RemoteFile, file: BinaryIO, bar: Any) -> None:
    """Receive the missing bytes, over as many connections as needed."""
    failures = 0
    while True:
        before = file.tell()
        try:
            _receive(remote, file, bar)
            if remote.size is None or file.tell() >= remote.size:
                return
            reason = "it ends early"
        except HubError:
            raise
        except OSError:
            raise
        except Exception as error:
            # The HTTP client's own errors; which client that is, is huggingface_hub's affair.
            reason = str(error).partition("\n")[0] or type(error).__name__
        failures = 0 if file.tell() > before else failures + 1
        if failures >= _TRIES:
            raise HubUnreachable(f"{remote.url} cannot be fetched: {reason}")
        if failures:
            time.sleep(_DELAY_FIRST_SECONDS * 2 ** (failures - 1))


def _receive(remote: RemoteFile, file: BinaryIO, bar: Any) -> None:
    """Receive over one connection, from the end of the partial file."""
    import huggingface_hub as hub

    start = file.tell()
    headers = {**remote.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with hub.get_session().stream(
        "GET", remote.url, headers=headers, follow_redirects=True
    ) as answer:
        if answer.status_code == _BEYOND_END and start and start != remote.size:
            _restart(file)
            return
        if answer.status_code == _BEYOND_END:
            return
        if answer.status_code not in (_OK, _PARTIAL):
            raise HubError(f"the server answered {answer.status_code} for {remote.url}")
        if answer.status_code == _OK and start:
            # The server gives the whole file only.
            _restart(file)
            start = 0
        bar.update(start - bar.n)
        # In pieces as they come: what came before a break is kept.
        for chunk in answer.iter_raw():
            file.write(chunk)
            bar.update(len(chunk))


def _restart(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _check(remote: RemoteFile, part: Path) -> None:
    """Check the complete file against its known size and hash; delete it if it is wrong."""
    size = part.stat().st_size
    if remote.size is not None and size != remote.size:
        part.unlink()
        raise HubError(f"{remote.url} came with {size} bytes instead of {remote.size}: try again")
    if remote.sha256 is None:
        return
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while data := file.read(_CHUNK_BYTES):
            digest.update(data)
    if digest.hexdigest() != remote.sha256:
        part.unlink()
        raise HubError(f"{remote.url} came damaged: its SHA-256 is not the announced one")
