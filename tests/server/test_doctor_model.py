"""What `doctor` finds of the model that is configured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.llama_cpp.speed_choice import NOT_MEASURED, SpeedChoice
from llm_serving_engine.server.config import ServerConfig, load_config
from llm_serving_engine.server.doctor import model as model_module
from llm_serving_engine.server.doctor.finding import Finding, Verdict
from llm_serving_engine.server.doctor.model import look_at_model

OK, NOTE, PROBLEM = Verdict.OK, Verdict.NOTE, Verdict.PROBLEM


def named(findings: Iterable[Finding], name: str) -> Finding:
    """The one finding of that name."""
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def config_of(**model: object) -> ServerConfig:
    return load_config(flags={"model": model})


def test_a_model_that_fits() -> None:
    findings = list(look_at_model(config_of(reference="builtin")))
    assert {finding.verdict for finding in findings} == {OK}
    assert "Q4_1" in named(findings, "file").value
    assert "for 16 slots of 2,048 tokens" in named(findings, "memory").value


def test_what_a_load_has_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def remembered(path: Path, config: BackendConfig, settings: Settings) -> SpeedChoice:
        assert config.batch_invariant is False
        return SpeedChoice(settings, {}, ("prompts in chunks of 128",))

    monkeypatch.setattr(model_module, "remembered_speed", remembered)
    speed = named(look_at_model(config_of(reference="builtin")), "speed")
    assert (speed.value, speed.verdict) == ("prompts in chunks of 128", OK)
    monkeypatch.undo()
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    speed = named(look_at_model(config_of(reference="builtin")), "speed")
    assert (speed.value, speed.verdict) == (NOT_MEASURED.format("attention and prefill_chunk"), OK)
    set_by_hand = {"flash_attention": True, "prefill_chunk": 64}
    by_hand = look_at_model(config_of(reference="builtin", runner=set_by_hand))
    assert "speed" not in {found.name for found in by_hand}


def test_a_model_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 5_000_000)
    memory = named(look_at_model(config_of(reference="builtin")), "memory")
    assert memory.verdict is PROBLEM
    assert "5 MB are available" in memory.value
    # A server that runs may be what takes it.
    served = named(look_at_model(config_of(reference="builtin"), served=True), "memory")
    assert (served.verdict, served.value) == (NOTE, memory.value)


def test_settings_that_cannot_be() -> None:
    runner = {"cache_type": "q4_0"}
    found = named(look_at_model(config_of(reference="builtin", runner=runner)), "settings")
    assert "cache_type is 'q4_0'" in found.value
    assert "model.runner" in found.advice


@pytest.mark.parametrize(
    ("template", "verdict", "words"),
    [
        ("{{ messages[0].content }}!", OK, "has 6 characters"),
        ("{% for", PROBLEM, "not valid"),
        ("{{ raise_exception('no') }}", PROBLEM, "no"),
    ],
)
def test_the_chat_template_is_tried(
    tmp_path: Path, template: str, verdict: Verdict, words: str
) -> None:
    path = tmp_path / "template.jinja"
    path.write_text(template)
    config = config_of(reference="builtin", chat_template=str(path))
    found = named(look_at_model(config), "chat template")
    assert found.verdict is verdict
    assert words in found.value


def test_the_files_own_chat_template(
    write_tiny_model: Callable[..., Path], tmp_path: Path, tiny_model_path: Path
) -> None:
    def found_in(path: Path) -> Finding:
        return named(look_at_model(config_of(reference=str(path))), "chat template")

    good = found_in(tiny_model_path)
    assert (good.verdict, good.value.split(";")[0]) == (OK, "the file's")
    without = found_in(write_tiny_model(tmp_path / "without.gguf", chat_template=None))
    assert (without.verdict, without.value.split(":")[0]) == (OK, "none")
    broken = found_in(write_tiny_model(tmp_path / "broken.gguf", chat_template="{% for"))
    assert broken.verdict is NOTE
    assert "model.chat_template" in broken.advice


def test_models_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (scripted,) = look_at_model(config_of(backend="scripted"))
    assert scripted.verdict is OK
    (missing,) = look_at_model(config_of(reference="/nowhere/model.gguf"))
    assert missing.verdict is PROBLEM
    (remote,) = look_at_model(config_of(reference="hf:somebody/something/model.gguf"))
    assert remote.verdict is NOTE
    assert "models pull hf:somebody/something/model.gguf" in remote.advice


def test_a_model_of_another_kind(write_tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "bert.gguf", architecture="bert")
    (refused,) = look_at_model(config_of(reference=str(path)))
    assert refused.verdict is Verdict.PROBLEM
    assert "is an embedding model (architecture bert)" in refused.value


def test_a_cache_of_the_hub_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied", "/locked/hub")

    monkeypatch.setattr("huggingface_hub.scan_cache_dir", refuse)
    (unread,) = look_at_model(config_of(reference="hf:somebody/something/model.gguf"))
    assert unread.verdict is PROBLEM
    assert unread.value.startswith("/locked/hub: Permission denied; HF_HOME names")
