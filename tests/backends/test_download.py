"""Downloads against a server that does not do what it should."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serve_hub

from llm_serving_engine.backends.models import download
from llm_serving_engine.backends.models.download import RemoteFile, fetch
from llm_serving_engine.backends.models.errors import HubError, HubUnreachable

DATA = bytes(range(256)) * 100


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as hub:
        hub.folder["/file.gguf"] = (DATA, '"tag"')
        yield hub


def remote(hub: Hub, **known: object) -> RemoteFile:
    return RemoteFile(f"{hub.address}/file.gguf", **known)  # type: ignore[arg-type]


def test_a_file_of_unknown_size(hub: Hub, tmp_path: Path) -> None:
    fetch(remote(hub), tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_bytes() == DATA
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_is_there_is_not_fetched(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    fetch(remote(hub), tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert hub.requests == []


def test_what_is_left_of_another_version_is_not_used(hub: Hub, tmp_path: Path) -> None:
    hub.break_after = 1000
    fetch(remote(hub, size=len(DATA), version="1"), tmp_path / "one", progress=False)
    hub.break_after = 1000
    with pytest.raises(HubError, match="came with 25600 bytes instead of 25599"):
        fetch(remote(hub, size=len(DATA) - 1, version="1"), tmp_path / "two", progress=False)
    fetch(remote(hub, size=len(DATA), version="2"), tmp_path / "two", progress=False)
    assert (tmp_path / "two").read_bytes() == DATA
    assert hub.downloads == [None, "bytes=1000-", None, "bytes=1000-", None]


def test_a_server_that_says_more_than_it_has(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_DELAY_FIRST_SECONDS", 0.0)
    with pytest.raises(HubUnreachable, match="it ends early"):
        fetch(remote(hub, size=len(DATA) + 1, version="1"), tmp_path / "file", progress=False)
    assert not (tmp_path / "file").exists()
