"""Settings that do not exist are errors, with the nearest that does."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_serving_engine.server.config import ConfigError, ServerConfig, load_config
from llm_serving_engine.server.setting_names import setting_names

PREFIX = "LLM_SERVING_ENGINE_"
# Settings that hold other settings, or variables of a template.
ANY_VALUES = ("template_arguments",)


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [
        ("GRPC__PROT", "GRPC__PORT"),
        ("GRPC_PORT", "GRPC__PORT"),
        ("DRAIN_SECOND", "DRAIN_SECONDS"),
        ("SCHEDULER__QUEUE_REQUEST_MAX", "SCHEDULER__QUEUE_REQUESTS_MAX"),
        ("MODEL__RUNNER__SEQUENCE", "MODEL__RUNNER__SEQUENCES"),
        ("MODEL__RUNNER__CPU__PINS", ""),
        ("NONSENSE", ""),
        ("", ""),
    ],
)
def test_a_variable_that_is_no_setting(
    variable: str, suggestion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + variable, "1")
    with pytest.raises(ConfigError) as raised:
        load_config()
    end = f"; did you mean {PREFIX}{suggestion}?" if suggestion else ""
    assert str(raised.value) == f"{PREFIX}{variable}: there is no such setting{end}"


def test_batch_invariant_runners_are_configured_by_the_scheduler() -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(flags={"model": {"runner": {"batch_invariant": True}}})
    problem = 'batch_invariant: set scheduler.determinism = "batch_invariant" instead'
    assert str(raised.value) == f"model.runner: {problem}"


def test_variables_that_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PREFIX + "GRPC__PORT", "1")
    monkeypatch.setenv((PREFIX + "HTTP__PORT").lower(), "2")
    monkeypatch.setenv(PREFIX + "LOG", '{"level": "error"}')
    monkeypatch.setenv(PREFIX + "MODEL__TEMPLATE_ARGUMENTS__ENABLE_THINKING", "false")
    monkeypatch.setenv(PREFIX[:-1], "not ours")
    config = load_config()
    assert (config.grpc.port, config.http.port, config.log.level) == (1, 2, "error")
    assert set(config.model.template_arguments) == {"enable_thinking"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a.example, b.example,", ("a.example", "b.example")),
        ('["a.example"]', ("a.example",)),
        ("[::1]", ("[::1]",)),
        ("", ()),
    ],
)
def test_lists_in_variables(
    text: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + "HTTP__HOSTS", text)
    assert load_config().http.hosts == names


@pytest.mark.parametrize(
    ("variable", "text", "problem"),
    [
        ("MODEL", "builtin", f"{PREFIX}MODEL: must be a table, as JSON; or set"),
        ("MODEL__RUNNER", "x", "model.runner: must be a table"),
        ("MODEL__TEMPLATE_ARGUMENTS", "x", "model.template_arguments: must be a table"),
        ("HTTP__HOSTS", "3", "http.hosts: must be a list"),
        ("HTTP__HOSTS", '["a"', "http.hosts: is not a JSON list"),
        ("GRPC__HOST", "", "grpc.host: is empty; write an address, such as 127.0.0.1"),
        ("GRPC__LISTEN", "a,b:1", "grpc.listen.0: 'a' is "),
        ("SCHEDULER__POLICY", "fairest", "scheduler: 'fairest' is neither a policy (fair, "),
    ],
)
def test_variables_with_wrong_values(
    variable: str, text: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PREFIX + variable, text)
    with pytest.raises(ConfigError) as raised:
        load_config(flags={"model": {"backend": "scripted"}})
    assert str(raised.value).startswith(problem)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[grpc]\nprot = 1", "grpc.prot: there is no such setting; did you mean grpc.port?"),
        (
            "[scheduler]\nqueue_request_max = 1",
            "scheduler.queue_request_max: there is no such setting; "
            "did you mean scheduler.queue_requests_max?",
        ),
        (
            "[grpc]\nprompt_bytes_max = 1",
            "grpc.prompt_bytes_max: there is no such setting; "
            "did you mean generation.prompt_bytes_max?",
        ),
        ("[nonsense]\na = 1", "nonsense: there is no such setting"),
        ("[scheduler]\nfoo = 1", "scheduler.foo: there is no such setting"),
        ("scheduler = 1", "scheduler: must be a table"),
        ("[model]\nrunner = 1", "model.runner: must be a table"),
        ("[model]\ntemplate_arguments = 1", "model.template_arguments: must be a table"),
        (
            "[generation]\nmax_tokens_default = true\n[model.runner]\nthreads = true",
            "generation.max_tokens_default: must be a number, not true\n"
            "model.runner.threads: must be a number, not true",
        ),
        (
            '[model.runner]\nflash_attention = "perhaps"\nsequences = "x"',
            "model.runner.sequences: must be a valid integer, unable to parse string as an "
            "integer\nmodel.runner.flash_attention: must be true or false, or must be 'auto'",
        ),
        ("[grpc]\nport = 65536", "grpc.port: must be less than or equal to 65535"),
        (
            '[grpc]\nhost = "unix:"',
            "grpc.host: 'unix:' has no path; write unix:/run/server.sock",
        ),
    ],
)
def test_a_file_with_what_is_no_setting_or_no_value(
    text: str, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert str(raised.value) == problem


def test_booleans_stand_where_they_are_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[model.runner]\nflash_attention = true\n[http]\nenabled = false")
    config = load_config(path)
    assert config.model.runner.flash_attention is True
    assert config.http.enabled is False
    monkeypatch.setenv(f"{PREFIX}MODEL__RUNNER__FLASH_ATTENTION", "auto")
    assert load_config(path).model.runner.flash_attention == "auto"


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_no_setting_takes_what_is_no_finite_number(value: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for name in setting_names(ServerConfig.model_construct()):
        if name.endswith(ANY_VALUES):
            continue
        table, _, key = name.rpartition(".")
        path.write_text(f"[{table}]\n{key} = {value}" if table else f"{key} = {value}")
        with pytest.raises(ConfigError, match=name):
            load_config(path)
