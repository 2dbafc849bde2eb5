"""Fixtures for the choices of a load, by a model that is made up."""

from __future__ import annotations

from pathlib import Path

import pytest
from timed_model import MODELS, others_of

from llm_serving_engine.backends.llama_cpp import speed_choice
from llm_serving_engine.backends.llama_cpp.timed_calls import TimeLimit


@pytest.fixture
def model_clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Measure by the clock of the model that was made last, and remember in a folder."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))

    def limit(seconds: float) -> TimeLimit:
        return TimeLimit(seconds, others_of(MODELS[-1]))

    monkeypatch.setattr(speed_choice, "TimeLimit", limit)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"a model")
    return file
