"""What was found of a model's bits, remembered."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llama_settings import SETTINGS

from llm_serving_engine.backends.llama_cpp import probe
from llm_serving_engine.backends.llama_cpp.probe import kept_bits


@pytest.mark.parametrize("kept", [True, False])
def test_what_was_tried_once_is_remembered(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"a model")
    tried: list[int] = []

    def keeps_bits(model: object, unit: int) -> bool:
        tried.append(unit)
        return kept

    monkeypatch.setattr(probe, "keeps_bits", keeps_bits)
    model: Any = SimpleNamespace(settings=SETTINGS)
    assert [kept_bits(model, 64, path) for _ in range(2)] == [kept, kept]
    assert kept_bits(model, 32, path) == kept
    assert tried == [64, 32]
    path.write_bytes(b"another model")
    assert kept_bits(model, 64, path) == kept
    assert tried == [64, 32, 64]
