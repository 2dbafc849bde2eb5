"""Model files on the Hugging Face hub, and their copies in its cache on this machine.

The hub's address (`HF_ENDPOINT`), its cache (`HF_HOME`), tokens (`HF_TOKEN`)
and working offline (`HF_HUB_OFFLINE`) are huggingface_hub's own settings. A
connection that breaks is resumed where it broke; a download that is given up
begins anew the next time, as huggingface_hub keeps no part of it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_serving_engine.backends.models.errors import HubError, HubUnreachable, ModelNotFound
from llm_serving_engine.backends.models.reference import HubModel

# What to take of several: first those with fast kernels on CPUs, then by size.
PREFERRED_TYPES = ("Q4_0", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q4_K_S", "Q4_1", "F16", "BF16")
_LISTED_FILES_MAX = 12
_ANSWER_TIMEOUT_SECONDS = 10.0


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
    """Where a file is in the cache, without asking the hub; None where it is not.

    Where `model` names no file, the one that suits best of those in the cache.
    """
    files = {
        cached.model.file or "": cached.path
        for cached in cached_files()
        if cached.model.repository == model.repository and model.file in (None, cached.model.file)
    }
    return files[choose_file(model.repository, list(files))] if files else None


def download(model: HubModel, *, progress: bool) -> Path:
    """Fetch a file from the hub into the cache, unless its newest form is there already.

    Where the hub cannot be reached, what is in the cache will do.

    Args:
        model: Which; the file that suits best where it names none.
        progress: Show a bar on stderr, where that is a terminal.

    Raises:
        HubError: The hub does not give the file.
        HubUnreachable: It cannot be asked, and the file is not in the cache.
    """
    try:
        file = _choose_remote(model)
    except HubUnreachable:
        cached = cached_path(model)
        if cached is None:
            raise
        return cached
    import huggingface_hub as hub

    bar = None if progress else _silent_bar()
    with _explained(model):
        return Path(hub.hf_hub_download(model.repository, file, tqdm_class=bar))


def remove(model: HubModel) -> int:
    """Delete a file from the cache; all of the repository's where `model` names none.

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


def choose_file(repository: str, names: Sequence[str]) -> str:
    """The GGUF file to take of a repository's files.

    The only one; else the first by `PREFERRED_TYPES`.

    Raises:
        HubError: There is none, or no way to choose.
    """
    candidates = [name for name in names if name.endswith(".gguf") and not _is_extra(name)]
    if not candidates:
        raise HubError(f"{repository} holds no GGUF file")
    if len(candidates) == 1:
        return candidates[0]
    for wanted in PREFERRED_TYPES:
        for name in candidates:
            if name.removesuffix(".gguf").upper().endswith(wanted):
                return name
    listed = ", ".join(candidates[:_LISTED_FILES_MAX])
    more = ", ..." if len(candidates) > _LISTED_FILES_MAX else ""
    raise HubError(f"{repository} holds several files; name one of: {listed}{more}")


def _choose_remote(model: HubModel) -> str:
    """The file to fetch, of those that the hub has. Raises HubError."""
    utils: Any = importlib.import_module("huggingface_hub.utils")
    # What goes wrong is said once, by the error raised here.
    utils.logging.set_verbosity_error()
    import huggingface_hub as hub

    with _explained(model):
        # Unlike the calls that list files, this one does not try for half a minute.
        answer = hub.HfApi().model_info(model.repository, timeout=_ANSWER_TIMEOUT_SECONDS)
    names = [sibling.rfilename for sibling in answer.siblings or []]
    if model.file is None:
        return choose_file(model.repository, names)
    if model.file not in names:
        raise HubError(f"{model.repository} has no file {model.file}")
    return model.file


def _is_extra(name: str) -> bool:
    """Whether a file is not a whole model: a part of one, or a projector for images."""
    base = name.rpartition("/")[2].lower()
    return "-of-0" in base or base.startswith("mmproj")


def _cached_repositories() -> list[Any]:
    import huggingface_hub as hub

    try:
        repositories = hub.scan_cache_dir().repos
    except hub.errors.CacheNotFound:
        return []
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
    """Turn what huggingface_hub raises into one line."""
    from huggingface_hub import constants, errors

    try:
        yield
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
