"""Model files on the Hugging Face hub, and their copies in its cache on this machine.

The hub's address (`HF_ENDPOINT`), its cache (`HF_HOME`), tokens (`HF_TOKEN`)
and working offline (`HF_HUB_OFFLINE`) are huggingface_hub's own settings. Files
are fetched by `download.py`, which keeps incomplete downloads, and then put in
place by huggingface_hub, which does not keep them.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_serving_engine.backends.models.choice import Choice, choose_file, parts_of
from llm_serving_engine.backends.models.download import RemoteFile, fetch
from llm_serving_engine.backends.models.errors import HubError, HubUnreachable, ModelNotFound
from llm_serving_engine.backends.models.reference import HubModel

_ANSWER_TIMEOUT_SECONDS = 10.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A GGUF file in the hub's cache.

    Attributes:
        model: Where it is from, with its file.
        path: Where it is.
        bytes: Its size.
    """

    model: HubModel
    path: Path
    bytes: int


def cached_files() -> list[CachedFile]:
    """The GGUF files in the cache, by repository and name; of several revisions, the newest."""
    newest: dict[HubModel, Any] = {}
    for repository in _cached_repositories():
        for revision in sorted(repository.revisions, key=lambda each: each.last_modified):
            for file in revision.files:
                name = file.file_path.relative_to(revision.snapshot_path).as_posix()
                if name.endswith(".gguf") and file.file_path.exists():
                    newest[HubModel(repository.repo_id, name)] = file
    return [
        CachedFile(model, file.file_path, file.size_on_disk)
        for model, file in sorted(newest.items(), key=lambda item: str(item[0]))
    ]


def cached_path(model: HubModel) -> Path | None:
    """Return a file's path in the cache, without asking the hub; None if it is not cached.

    Where `model` names no file, the one that suits best of those in the cache.
    Of a split model, the first part, where all parts are there.
    """
    cached = {
        cached.model.file or "": cached
        for cached in cached_files()
        if cached.model.repository == model.repository
    }
    sizes = {name: file.bytes for name, file in cached.items()}
    if model.file is None:
        try:
            chosen = choose_file(model.repository, sizes, quantization=model.quantization).file
        except HubError:
            return None
    else:
        chosen = model.file
    parts = parts_of(chosen)
    return cached[parts[0]].path if all(part in cached for part in parts) else None


def download(
    model: HubModel,
    *,
    progress: bool,
    memory: int | None = None,
    explain: Callable[[str], None] = lambda reason: None,
) -> Path:
    """Fetch a model from the hub into the cache, unless its newest form is there already.

    Where the hub cannot be reached, what is in the cache will do.

    Args:
        model: Which; the file that suits best where it names none.
        progress: Show a bar on stderr, where that is a terminal.
        memory: Bytes that the model may take, where its file is to be chosen.
        explain: Told in one sentence why a file was chosen of several.

    Returns:
        The file; of a split model, the first part.

    Raises:
        HubError: The hub does not give the file.
        HubUnreachable: It cannot be asked, and the file is not in the cache.
    """
    try:
        choice = _choose_remote(model, memory)
        if choice.reason:
            explain(choice.reason)
        with _explained(model):
            paths = [
                _fetch(model.repository, file, progress=progress) for file in parts_of(choice.file)
            ]
    except HubUnreachable:
        cached = cached_path(model)
        if cached is None:
            raise
        return cached
    return paths[0]


def remove(model: HubModel) -> int:
    """Delete a file from the cache, or all of the repository if `model` names no file.

    Returns:
        The bytes that this gives back.

    Raises:
        ModelNotFound: It is not in the cache.
    """
    doomed: list[Any] = []
    kept_blobs: set[Path] = set()
    for repository in _cached_repositories():
        if repository.repo_id == model.repository:
            for revision in repository.revisions:
                for file in revision.files:
                    name = file.file_path.relative_to(revision.snapshot_path).as_posix()
                    if name.endswith(".gguf") and model.file in (None, name):
                        doomed.append(file)
                    else:
                        kept_blobs.add(file.blob_path)
    if not doomed:
        raise ModelNotFound(f"{model} is not in the cache")
    # Revisions, and files of equal content, share a blob.
    blobs = {file.blob_path for file in doomed} - kept_blobs
    freed: int = sum(blob.stat().st_size for blob in blobs if blob.exists())
    for path in (*(file.file_path for file in doomed), *blobs):
        path.unlink(missing_ok=True)
    return freed


def _choose_remote(model: HubModel, memory: int | None) -> Choice:
    """The file to fetch, of those that the hub has. Raises HubError."""
    utils: Any = importlib.import_module("huggingface_hub.utils")
    # What goes wrong is said once, by the error raised here.
    utils.logging.set_verbosity_error()
    import huggingface_hub as hub

    with _explained(model):
        # Unlike the calls that list files, this one does not try for half a minute.
        answer = hub.HfApi().model_info(
            model.repository, timeout=_ANSWER_TIMEOUT_SECONDS, files_metadata=True
        )
    sizes = {sibling.rfilename: sibling.size for sibling in answer.siblings or []}
    if model.file is None:
        return choose_file(model.repository, sizes, quantization=model.quantization, memory=memory)
    missing = [part for part in parts_of(model.file) if part not in sizes]
    if missing:
        raise HubError(f"{model.repository} has no file {missing[0]}")
    return Choice(model.file)


def _fetch(repository: str, file: str, *, progress: bool) -> Path:
    """Download a file into the cache. Raises huggingface_hub's errors, and HubError."""
    import huggingface_hub as hub
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    url = hub.hf_hub_url(repository, file)
    about = hub.get_hf_file_metadata(url, timeout=_ANSWER_TIMEOUT_SECONDS)
    if about.etag is None or about.commit_hash is None:
        raise HubError(f"the hub does not say which version of {repository}/{file} it has")
    there = hub.try_to_load_from_cache(repository, file, revision=about.commit_hash)
    if not isinstance(there, str):
        folder = f"models--{repository.replace('/', '--')}"
        blob = Path(constants.HF_HUB_CACHE, folder, "blobs", about.etag)
        # The hub's tag of a large file is its checksum.
        sha256 = about.etag if _SHA256.fullmatch(about.etag) else None
        remote = RemoteFile(url, about.size, sha256, about.etag, build_hf_headers())
        fetch(remote, blob, progress=progress)
    # It is there: this only gives it its name in the cache.
    return Path(hub.hf_hub_download(repository, file, tqdm_class=_silent_bar()))


def _cached_repositories() -> list[Any]:
    import huggingface_hub as hub

    try:
        repositories = hub.scan_cache_dir().repos
    except hub.errors.CacheNotFound:
        return []
    except OSError as error:
        where = f"{error.filename}: {error.strerror}"
        raise HubError(f"{where}; HF_HOME names the folder of the hub's cache") from error
    return [each for each in repositories if each.repo_type == "model"]


def _silent_bar() -> Any:
    tqdm: Any = importlib.import_module("huggingface_hub.utils").tqdm

    class Silent(tqdm):  # type: ignore[misc]
        """A progress bar that shows nothing."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"disable": True}))

    return Silent


@contextlib.contextmanager
def _explained(model: HubModel) -> Iterator[None]:
    """Turn an error of huggingface_hub into one line."""
    from huggingface_hub import constants, errors

    try:
        yield
    except HubError:
        raise
    except errors.GatedRepoError:
        terms = f"{constants.ENDPOINT}/{model.repository}"
        reason = f"{model.repository} is gated: accept its terms at {terms}, then set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        reason = f"the hub has no {model.repository}, or it is private and HF_TOKEN is not set"
    except errors.OfflineModeIsEnabled:
        raise HubUnreachable(f"{model} is not in the cache, and HF_HUB_OFFLINE is set") from None
    except errors.HfHubHTTPError as error:
        reason = f"the hub answered {error.response.status_code} for {model}"
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = f"{model} cannot be fetched: {where}{error.strerror or _line(error)}"
    except Exception as error:
        # The HTTP client's own errors; which client that is, is huggingface_hub's affair.
        raise HubUnreachable(
            f"the hub at {constants.ENDPOINT} cannot be reached: {_line(error)}"
        ) from None
    else:
        return
    raise HubError(reason) from None


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
