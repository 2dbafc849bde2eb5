"""Model files at an https:// address, and their copies on this machine.

They are kept beside the hub's cache, in `HF_HOME`.
"""

from __future__ import annotations

import hashlib
import re
from glob import escape
from pathlib import Path
from urllib.parse import quote, urljoin

from llm_serving_engine.backends.models.choice import parts_of
from llm_serving_engine.backends.models.download import PART_SUFFIX, RemoteFile, fetch
from llm_serving_engine.backends.models.errors import HubError, HubUnreachable, ModelNotFound
from llm_serving_engine.backends.models.reference import UrlModel

_ANSWER_TIMEOUT_SECONDS = 10.0
_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')


def cached_path(model: UrlModel) -> Path | None:
    """Return the cached path of a model, or of a split one's first part if all are cached."""
    paths = [_folder(model) / part for part in parts_of(model.file)]
    return paths[0] if all(path.is_file() for path in paths) else None


def download(model: UrlModel, *, progress: bool) -> Path:
    """Fetch a model, unless it is there.

    Args:
        model: Its address; of a split one, that of any part.
        progress: Show a bar on stderr, where that is a terminal.

    Returns:
        The file; of a split model, the first part.

    Raises:
        HubError: The server does not give the file.
        HubUnreachable: It cannot be asked.
    """
    folder = _folder(model)
    paths = [folder / part for part in parts_of(model.file)]
    for path in paths:
        if not path.is_file():
            url = model.url if path.name == model.file else _beside(model.url, path.name)
            try:
                fetch(_remote(url), path, progress=progress)
            except OSError as error:
                raise HubError(f"{path} cannot be written: {error.strerror}") from None
    return paths[0]


def remove(model: UrlModel) -> int:
    """Delete the copy of a model.

    Returns:
        The bytes that this gives back.

    Raises:
        ModelNotFound: There is none.
    """
    freed = 0
    for part in parts_of(model.file):
        pieces = _folder(model).glob(f"{escape(part)}.*{PART_SUFFIX}")
        for path in (_folder(model) / part, *pieces):
            if path.is_file():
                freed += path.stat().st_size
                path.unlink()
    if not freed:
        raise ModelNotFound(f"{model} is not on this machine")
    return freed


def _remote(url: str) -> RemoteFile:
    """Ask the server for a file's size and identity before the download. Raises HubError."""
    import huggingface_hub as hub

    try:
        answer = hub.get_session().head(
            url,
            headers={"Accept-Encoding": "identity"},
            follow_redirects=True,
            timeout=_ANSWER_TIMEOUT_SECONDS,
        )
    except Exception as error:
        # The HTTP client's own errors; which client that is, is huggingface_hub's affair.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise HubUnreachable(f"{url} cannot be reached: {reason}") from None
    if answer.status_code == _METHOD_NOT_ALLOWED:
        return RemoteFile(url)
    if answer.status_code != _OK:
        raise HubError(f"the server answered {answer.status_code} for {url}")
    length = answer.headers.get("x-linked-size") or answer.headers.get("content-length")
    tag = answer.headers.get("x-linked-etag") or answer.headers.get("etag") or ""
    checksum = _SHA256.fullmatch(tag)
    return RemoteFile(
        url,
        int(length) if length and length.isdecimal() else None,
        checksum[1] if checksum else None,
        tag or answer.headers.get("last-modified"),
    )


def _beside(url: str, name: str) -> str:
    """The address of a file in the same folder; a query goes with it, as it may hold a key."""
    query = url.partition("?")[1:]
    return urljoin(url, quote(name)) + "".join(query)


def _folder(model: UrlModel) -> Path:
    from huggingface_hub import constants

    place = hashlib.sha256(urljoin(model.url, ".").encode()).hexdigest()[:16]
    return Path(constants.HF_HOME, "llm-serving-engine", place)


_OK = 200
_METHOD_NOT_ALLOWED = 405
