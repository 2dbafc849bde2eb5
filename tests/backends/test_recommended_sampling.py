"""What a model file recommends of sampling."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_model import write_tiny_model

from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.models.recommended_sampling import recommended_sampling


def test_a_file_tells_its_sampling(tmp_path: Path) -> None:
    said = {"temp": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.0, "penalty_repeat": 1.1}
    # What this server does not have is of no use to it.
    file = write_tiny_model(tmp_path / "m.gguf", sampling={**said, "mirostat": 2})
    assert ModelInfo.read(file).sampling == {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.9,
        "min_p": 0.0,
        "repetition_penalty": 1.1,
    }


def test_a_file_that_tells_nothing(tiny_model_path: Path) -> None:
    assert ModelInfo.read(tiny_model_path).sampling == {}


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [
        ("temp", 0, "temperature"),
        ("temp", 100.0, "temperature"),
        ("top_k", 40.0, "top_k"),
        ("top_p", 1.0, "top_p"),
        ("min_p", 1.0, "min_p"),
        ("penalty_repeat", 10.0, "repetition_penalty"),
    ],
)
def test_values_at_the_edge(key: str, value: float, name: str) -> None:
    found = recommended_sampling({f"general.sampling.{key}": value})
    assert found == {name: value}
    assert isinstance(found[name], int) == (name == "top_k")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temp", -0.1),
        ("temp", 100.1),
        ("temp", float("nan")),
        ("temp", "0.6"),
        ("temp", True),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("penalty_repeat", 0.0),
        ("penalty_repeat", float("inf")),
    ],
)
def test_values_that_cannot_be(key: str, value: object) -> None:
    assert recommended_sampling({f"general.sampling.{key}": value}) == {}
