"""200 model files with random damage, and every hostile one: none ends the server."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from file_outcomes import outcome
from hostile_files import NAMED, SERVED, damaged

DAMAGED_FILES = int(os.environ.get("ENDURANCE_DAMAGED_FILES", "200"))
REFUSAL_SECONDS_MAX = 10.0


@pytest.fixture
def paths(tiny_model_path: Path, tmp_path: Path) -> list[Path]:
    """The files."""
    model = tiny_model_path.read_bytes()
    paths = []
    for number, hostile in enumerate(NAMED):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths.append(hostile.make(folder, model))
    for number, (_, data) in enumerate(damaged(model, DAMAGED_FILES, seed=0)):
        paths.append(tmp_path / f"damaged-{number}.gguf")
        paths[-1].write_bytes(data)
    return paths


async def test_damaged_files(paths: list[Path]) -> None:
    seconds, served = [], 0
    for path in paths:
        began = time.monotonic()
        served += await outcome(path) == SERVED
        seconds.append(time.monotonic() - began)
    print(
        f"\n{len(paths)} files: {served} served, {len(paths) - served} refused; "
        f"{sum(seconds):.0f} s in all, the slowest {max(seconds):.1f} s"
    )
    assert max(seconds) < REFUSAL_SECONDS_MAX
