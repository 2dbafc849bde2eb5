"""`tune`, as it is typed, and what it writes."""

from __future__ import annotations

import datetime
import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.tuning.decision import Trial
from llm_serving_engine.backends.tuning.reading import MIXES, Reading
from llm_serving_engine.backends.tuning.search import Choice, Tuning
from llm_serving_engine.server.commands.tune_report import Report, print_report
from llm_serving_engine.server.config import load_config

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SETTINGS = Settings(32, 2048, 4, 128, "f16", True, 0)
READING = Reading(0.001, 0.1, 16)


def trial(value: int | str, gain: float) -> Trial:
    return Trial(value, (gain,) * 3, READING)


CHOICES = (
    Choice("threads", 4, 4, (trial(2, 0.5), trial(8, 0.8)), ()),
    Choice("sequences", 32, 16, (trial(32, 1.2), trial(8, 0.6)), ((64, "there was no time left"),)),
    Choice("cache_type", "f16", "f16", (trial("q8_0", 0.9),), ()),
    Choice("prefill_chunk", 128, 64, (trial(128, 1.1),), ()),
)


@pytest.fixture
def report(tiny_model_path: Path) -> Report:
    tuning = Tuning(SETTINGS, CHOICES, READING, False, 0.23, 61.4)
    info = ModelInfo.read(tiny_model_path)
    return Report(tuning, info, "builtin", 32, 0.04, datetime.date(2026, 2, 3))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `tune` in a process of its own."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "llm_serving_engine", "tune", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )

    return run


def loaded(text: str, path: Path) -> BackendConfig:
    path.write_text(text, encoding="utf-8")
    return load_config(path).model.runner


def failure(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_an_unknown_mix_is_named(run: Run) -> None:
    done = run("builtin", "--mix", "novels")
    assert failure(done) == (
        "error: --mix is 'novels'; it can be one of: chat, documents, writing\n"
    )


def test_no_less_time_than_the_defaults_take(run: Run) -> None:
    done = run("builtin", "--seconds", "19")
    assert done.returncode == 2
    assert "must be greater than or equal to 20" in done.stderr


def test_no_more_clients_than_slots_can_be(run: Run) -> None:
    done = run("builtin", "--clients", "1025")
    assert done.returncode == 2
    assert "must be less than or equal to 1024" in done.stderr


def test_the_file_says_which_mix_it_is_for(report: Report) -> None:
    reading = READING._replace(mix=MIXES["documents"])
    other = replace(report, tuning=replace(report.tuning, reading=reading))
    assert "each with a prompt of 1536 tokens and 64 of output" in other.toml()
    assert "each with a prompt of 256 tokens and 128 of output" in report.toml()


def test_a_chunk_that_was_not_measured_is_left_to_the_server(
    report: Report, tmp_path: Path
) -> None:
    unmeasured = Choice("prefill_chunk", 64, 64, (), ((128, "there was no time left"),))
    choices = (*CHOICES[:-1], unmeasured)
    other = replace(report, tuning=replace(report.tuning, choices=choices))
    assert loaded(other.toml(), tmp_path / "tuned.toml").prefill_chunk is None
    assert "# prefill_chunk is left to the server" in other.toml()
    assert "# prefill_chunk = 128 was not tried: there was no time left" in other.toml()


def test_a_model_is_tuned_and_the_server_takes_the_file(
    run: Run, tiny_model_path: Path, tmp_path: Path
) -> None:
    done = run(tiny_model_path, "--seconds", "20", "--clients", "4", "-o", "mine.toml")
    assert (done.returncode, done.stderr) == (0, "")
    names = ["threads", "kernels", "sequences", "cache_type", "prefill_chunk"]
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert [row[0] for row in rows] == ["SETTING", *names, "step_target_seconds"]
    assert done.stdout.endswith("try: llm-serving-engine serve --config mine.toml\n")

    config = load_config(tmp_path / "mine.toml")
    assert config.model.reference == str(tiny_model_path)
    chosen = {row[0]: row[2] for row in rows[1:]}
    runner = config.model.runner
    kept = {name: str(value) for name in names if (value := getattr(runner, name)) is not None}
    assert kept == {name: chosen[name] for name in kept}
    assert set(names) - set(kept) <= {"prefill_chunk"}
    assert runner.context_per_sequence == 1024  # what the model was trained for
    assert str(config.scheduler.step_target_seconds) == chosen["step_target_seconds"]

    written = (tmp_path / "mine.toml").read_text()
    assert "exists: use --force" in failure(run(tiny_model_path, "-o", "mine.toml"))
    assert (tmp_path / "mine.toml").read_text() == written


def test_force_writes_over_and_stdout_gets_the_file_alone(
    run: Run, tiny_model_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "tuned.toml").write_text("old")
    quick = ("--seconds", "20", "--clients", "1", "--context", "200")
    assert run(tiny_model_path, "--force", *quick).returncode == 0
    assert load_config(tmp_path / "tuned.toml").model.runner.context_per_sequence == 256
    done = run(tiny_model_path, "--output", "-", *quick)
    assert (done.returncode, done.stderr) == (0, "")
    assert loaded(done.stdout, tmp_path / "other.toml").sequences


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("nothing.gguf",), "there is no file"),
        (("hf:x",), "not of the form"),
        (("text.gguf",), "is not a GGUF file"),
        (("tiny.gguf", "--context", "5000"), "trained for 1024"),
        (("tiny.gguf", "-o", "no/such/folder.toml"), "no/such"),
    ],
)
def test_failures_are_one_line(
    run: Run,
    tiny_model_path: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    reason: str,
) -> None:
    (tmp_path / "text.gguf").write_text("not a model at all, only a text")
    (tmp_path / "tiny.gguf").symlink_to(tiny_model_path)
    assert reason in failure(run(*arguments))
    assert not (tmp_path / "tuned.toml").exists()


def test_help_has_an_example(run: Run) -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Example: llm-serving-engine tune builtin" in " ".join(done.stdout.split())


def test_the_file_says_what_each_choice_gains(report: Report, tmp_path: Path) -> None:
    text = report.toml()
    runner = loaded(text, tmp_path / "tuned.toml")
    assert (runner.threads, runner.sequences, runner.cache_type, runner.prefill_chunk) == (
        *(4, 32, "f16", 128),
    )
    lines = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    assert lines["threads"] == "4  # 2.00 x the tokens/s of 2, 1.25 x the tokens/s of 8"
    assert lines["sequences"] == "32  # 2.00 x the tokens/s of 8, 1.20 x the tokens/s of 16"
    assert lines["# sequences"] == "64 was not tried: there was no time left"
    # 32 sequences of 2,048 tokens of 256 bytes, and of 136.
    sizes = "the cache takes 17 MB as f16, 9 MB as q8_0"
    assert lines["cache_type"] == f'"f16"  # 1.11 x the tokens/s of q8_0; {sizes}'
    assert lines["prefill_chunk"].startswith("128  # 1.10 x the tokens/s of 64; gaps")
    assert lines["prefill_chunk"].endswith('; excludes determinism "batch_invariant"')
    assert (
        lines["step_target_seconds"] == "0.23  # 100 ms for 16 rows, 128 ms for 128 prompt tokens"
    )
    header = [line for line in text.splitlines() if line.startswith("# ")][:5]
    assert "2026-02-03, in 61 s" in header[0]
    assert "4% of it" in header[1]
    assert "Tiny Random Llama, llama, F32" in header[2]
    assert "32 clients" in header[3]
    # 16 * 128 tokens in 16 * 256 * 1 ms and 128 * 0.1 s.
    parts = "decode 160 tokens/s with 16 streams, prefill 1,000 tokens/s"
    assert header[4] == f"# 121 output tokens/s overall ({parts})."


def test_a_default_that_stays_for_want_of_a_clear_winner(report: Report) -> None:
    near = Choice("threads", 4, 4, (trial(2, 1.01), trial(8, 0.8)), ())
    text = replace(report, tuning=replace(report.tuning, choices=(near,))).toml()
    gained = (
        "the default, as nothing won clearly; 0.99 x the tokens/s of 2, 1.25 x the tokens/s of 8"
    )
    assert f"threads = 4  # {gained}\n" in text


@pytest.mark.parametrize("reference", ['a "b" \\c.gguf', "é😀.gguf", "tab\tnew\nline\x7f.gguf"])
def test_any_name_of_a_file_survives(report: Report, tmp_path: Path, reference: str) -> None:
    path = tmp_path / "tuned.toml"
    path.write_text(replace(report, reference=reference).toml(), encoding="utf-8")
    assert load_config(path).model.reference == reference


def test_a_description_cannot_add_settings(report: Report, tmp_path: Path) -> None:
    info = replace(report.info, description="x\n[grpc]\nport = 1")
    path = tmp_path / "tuned.toml"
    path.write_text(replace(report, info=info).toml(), encoding="utf-8")
    assert load_config(path).grpc.port == 50051


def test_a_step_target_that_is_held_down_is_told(report: Report) -> None:
    slow = replace(report.tuning, reading=Reading(0.01, 0.1, 16), step_target_seconds=0.5)
    assert (
        replace(report, tuning=slow).rows()[-1][3].endswith("held down, as streams would stutter")
    )
    assert "held down" not in report.rows()[-1][3]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_table(report: Report, terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, color_system=None)
    print_report(report, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines[2].split()[:5] == ["sequences", "8,", "16,", "32", "32"]
    assert "1.20 x the tokens/s of 16" in lines[2]
    assert ("\t" in lines[2]) is not terminal
    assert "not tried: sequences 64 (there was no time left)" in lines
    assert "mislead" not in lines[-1]


def test_a_busy_machine_is_told(report: Report) -> None:
    assert "0% of the machine just before" in replace(report, busy=0.9).notes()[-1]
    assert "mislead" in replace(report, busy=0.9).notes()[-1]
