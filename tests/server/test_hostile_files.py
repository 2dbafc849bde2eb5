"""Whatever a model's file is, the server lives, and the file is served right or refused."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from file_outcomes import outcome
from hostile_files import NAMED, SERVED, Hostile, damaged
from running_server import serving

from llm_serving_engine.server.model import ModelState

DAMAGED_FILES = 20


@pytest.fixture(scope="session")
def tiny_model(tiny_model_path: Path) -> bytes:
    """A sound model's file."""
    return tiny_model_path.read_bytes()


@pytest.mark.parametrize("hostile", NAMED, ids=lambda hostile: hostile.name.replace(" ", "-"))
async def test_a_hostile_file(hostile: Hostile, tiny_model: bytes, tmp_path: Path) -> None:
    path = hostile.make(tmp_path, tiny_model)
    assert hostile.words in await outcome(path)


async def test_damaged_files(tiny_model: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    outcomes = []
    for _, data in damaged(tiny_model, DAMAGED_FILES, seed=1):
        path.write_bytes(data)
        outcomes.append(await outcome(path))
    assert {each == SERVED for each in outcomes} == {True, False}


async def test_a_file_that_is_replaced_while_it_is_served(
    write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny_model(tmp_path / "model.gguf")
    other = write_tiny_model(tmp_path / "other.gguf", seed=1)
    small = {"runner": {"sequences": 1, "context_per_sequence": 64}}
    async with serving(path, model=small) as server:
        tokens = (await server.generate()).token_ids
        aside = path.rename(tmp_path / "aside.gguf")
        other.rename(path)
        assert (await server.generate()).token_ids == tokens
        server.signal_runner(signal.SIGKILL)
        await server.recorder.until(lambda: server.model.state is ModelState.FAILED)
        reason = "model.gguf was replaced while it was served: restart the server"
        assert reason in server.model.state_reason
        aside.replace(path)
        await server.recorder.until(lambda: server.model.state is ModelState.READY)
        assert (await server.generate()).token_ids == tokens


async def test_an_unreadable_file(
    tiny_model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_model)

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    # The superuser may read any file: the system's refusal is acted.
    monkeypatch.setattr("llm_serving_engine.backends.models.gguf_file.os.open", refuse)
    assert await outcome(path) == f"{path} cannot be read: Permission denied"


async def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert "cannot be read: File name too long" in await outcome(tmp_path / ("x" * 300))
