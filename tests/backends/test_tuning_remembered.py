"""What `tune` found is what a later load takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llm_serving_engine.backends.llama_cpp.kernel_choice import SUBJECT, given
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.measured import MeasuredStore
from llm_serving_engine.backends.tuning.decision import Trial
from llm_serving_engine.backends.tuning.reading import Reading
from llm_serving_engine.backends.tuning.remembered import remember_kernels
from llm_serving_engine.backends.tuning.search import Choice, Tuning

SETTINGS = Settings(8, 1024, 2, 64, "f16", True, 0, "plain")
READING = Reading(0.001, 0.02, 8)
COMPARED = Choice(SUBJECT, "plain", "repack", (Trial("plain", (1.2, 1.3, 1.4), READING),), ())


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    path = tmp_path / "model.gguf"
    path.write_bytes(b"model")
    return path


def tuning(choice: Choice, batch_invariant: bool = False) -> Tuning:
    return Tuning(SETTINGS, (choice,), READING, batch_invariant, 0.1, 60.0)


@pytest.mark.parametrize("invariant", [False, True])
def test_a_comparison_is_remembered(model: Path, invariant: bool) -> None:
    assert remember_kernels(model, tuning(COMPARED, invariant))
    store = MeasuredStore.of(model)
    assert store is not None
    found = store.recall(SUBJECT, given(SETTINGS, False))
    assert found is not None
    assert found.values == {SUBJECT: "plain"}
    assert found.reason == "tune measured: 1.30 x the tokens/s of repack with plain"
    assert (store.recall(SUBJECT, given(SETTINGS, True)) is not None) == invariant
    assert store.recall(SUBJECT, given(replace(SETTINGS, threads=1), False)) is None


def test_what_was_not_compared_is_not(model: Path) -> None:
    assert not remember_kernels(model, tuning(replace(COMPARED, trials=())))
    assert not remember_kernels(model, tuning(replace(COMPARED, name="threads")))
    assert not remember_kernels(model.with_name("gone"), tuning(COMPARED))
    store = MeasuredStore.of(model)
    assert store is not None
    assert store.recall(SUBJECT, given(SETTINGS, False)) is None
