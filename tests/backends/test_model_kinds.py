"""Models that do not generate text are refused by name, and by what the library says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from architectures import write_architecture

from llm_serving_engine.backends.backend import BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp.backend import LlamaCppBackend
from llm_serving_engine.backends.models import kinds
from llm_serving_engine.backends.models.errors import ModelFileError
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.models.kinds import check_generates

CONFIG = BackendConfig(sequences=2, context_per_sequence=256, threads=1)


def load(path: Path) -> None:
    LlamaCppBackend(str(path), CONFIG, lambda fraction: None).close()


@pytest.mark.parametrize("architecture", sorted(kinds.REFUSED))
def test_a_kind_that_is_not_served_is_refused_by_name(
    architecture: str, write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny_model(tmp_path / "model.gguf", architecture=architecture)
    with pytest.raises(LoadError, match=f"architecture {architecture}\\)") as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_looks_both_ways_is_an_embedding_model(tiny_model_path: Path) -> None:
    info = ModelInfo.read(tiny_model_path)
    check_generates(info)
    with pytest.raises(ModelFileError, match=r"an embedding model \(architecture llama"):
        check_generates(replace(info, causal=False))


@pytest.mark.parametrize(
    ("architecture", "words"), [("dream", "diffusion"), ("gemma-embedding", "does not generate")]
)
def test_what_no_name_tells_the_library_does(
    architecture: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_architecture(tmp_path / "model.gguf", architecture)
    with pytest.raises(LoadError, match=f"architecture {architecture}"):
        load(path)
    monkeypatch.setattr(kinds, "REFUSED", {})
    monkeypatch.setattr("llm_serving_engine.backends.llama_cpp.backend.check_generates", print)
    with pytest.raises(LoadError, match=words):
        load(path)
