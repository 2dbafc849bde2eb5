"""What `doctor` finds, and how it tells."""

from __future__ import annotations

import io
import json
import platform
import socket
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from serve_process import serve_process

from llm_serving_engine.backends import machine
from llm_serving_engine.backends.build_record import Attempt, BuildRecord, Check, Outcome
from llm_serving_engine.backends.models.errors import LibraryMissing
from llm_serving_engine.server.commands import doctor_report
from llm_serving_engine.server.config import ConfigError, load_config
from llm_serving_engine.server.doctor import build as build_module
from llm_serving_engine.server.doctor import machine as machine_module
from llm_serving_engine.server.doctor.build import look_at_build
from llm_serving_engine.server.doctor.configuration import (
    invalid_configuration,
    look_at_configuration,
)
from llm_serving_engine.server.doctor.finding import Finding, Verdict, note, problem
from llm_serving_engine.server.doctor.machine import look_at_machine
from llm_serving_engine.server.doctor.ports import look_at_ports
from llm_serving_engine.server.doctor.served import look_at_server

OK, NOTE, PROBLEM = Verdict.OK, Verdict.NOTE, Verdict.PROBLEM
RIGHT = BuildRecord(
    features="full",
    compiler="c++ 14.2",
    library_features=("AVX2", "FMA"),
    checks={"Q4_0": Check(Outcome.OK, 0.0012), "F16": Check(Outcome.OK)},
)


def named(findings: Iterable[Finding], name: str) -> Finding:
    """The one finding of that name."""
    (found,) = [finding for finding in findings if finding.name == name]
    return found


# The machine


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores, half of the logical ones ours, and nothing else that runs."""
    monkeypatch.setattr(machine, "compute_threads", lambda: 4)
    monkeypatch.setattr(machine, "logical_cores", lambda: 8)
    monkeypatch.setattr(machine, "core_seconds_of_others", lambda: 100.0)
    monkeypatch.setattr(machine, "available_memory", lambda: 6 * 10**9)
    monkeypatch.setattr(machine, "memory_limit", lambda: None)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 16)
    monkeypatch.setattr(machine_module, "code_flags", lambda: frozenset({"avx2", "fma", "sse4a"}))
    monkeypatch.setattr(machine_module, "cpu_name", lambda: "Example 9000")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.usefixtures("quiet_machine")
def test_a_good_machine() -> None:
    findings = list(look_at_machine(pause=lambda seconds: None))
    assert [finding.verdict for finding in findings] == [OK] * 4
    assert named(findings, "processor").value == "Example 9000: fma avx2"
    cores = "4 to compute with, 8 logical of the machine's 16; others take 0.0"
    assert named(findings, "cores").value == cores
    assert named(findings, "memory").value.startswith("6.0 GB available of ")


@pytest.mark.usefixtures("quiet_machine")
def test_others_that_compute_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    had = iter((100.0, 200.0))
    monkeypatch.setattr(machine, "core_seconds_of_others", lambda: next(had))
    cores = named(look_at_machine(pause=lambda seconds: None), "cores")
    assert cores.verdict is NOTE
    assert "lower threads" in cores.advice


@pytest.mark.usefixtures("quiet_machine")
def test_memory_that_a_group_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_limit", lambda: 10**9)
    monkeypatch.setattr(machine, "available_memory", lambda: 400_000_000)
    memory = named(look_at_machine(pause=lambda seconds: None), "memory")
    assert memory.verdict is PROBLEM
    assert memory.value.endswith("; a control group grants 1.0 GB")


@pytest.mark.usefixtures("quiet_machine")
def test_a_processor_without_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "code_flags", lambda: frozenset({"avx"}))
    processor = named(look_at_machine(pause=lambda seconds: None), "processor")
    assert (processor.verdict, processor.value) == (NOTE, "Example 9000: avx")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    processor = named(look_at_machine(pause=lambda seconds: None), "processor")
    assert processor.verdict is OK


# The build


def looked_at(record: BuildRecord | None, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    monkeypatch.setattr(build_module, "read_build_record", lambda: record)
    return list(look_at_build())


def test_a_build_that_was_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = looked_at(RIGHT, monkeypatch)
    assert {finding.verdict for finding in findings} == {OK}
    assert named(findings, "llama.cpp").value.endswith(", full")
    assert named(findings, "compiler").value == "c++ 14.2"
    assert named(findings, "features").value == "AVX2 FMA"
    assert named(findings, "self-check Q4_0").value == "right (error 0.0012)"
    assert named(findings, "self-check F16").value == "right"


def test_a_build_that_nothing_is_known_of(monkeypatch: pytest.MonkeyPatch) -> None:
    check = named(looked_at(None, monkeypatch), "self-check")
    assert (check.verdict, check.value) == (NOTE, "not done")
    assert "llm_serving_engine.backends.self_check" in check.advice


def test_a_build_that_computes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {"Q4_0": Check(Outcome.CRASH, None, "SIGILL"), "Q8_0": Check(Outcome.OK, 0.1)}
    findings = looked_at(BuildRecord("full", checks=checks), monkeypatch)
    check = named(findings, "self-check Q4_0")
    assert (check.verdict, check.value) == (PROBLEM, "crash: SIGILL")
    assert "do not use models in Q4_0" in check.advice
    assert named(findings, "self-check Q8_0").verdict is OK


def test_a_build_with_fewer_features(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = (Attempt("full", "Q4_0 crashed"),)
    record = BuildRecord("no-amx", cost="prompts take longer", attempts=attempts)
    found = named(looked_at(record, monkeypatch), "llama.cpp")
    assert found.verdict is NOTE
    assert found.value.endswith("no-amx: prompts take longer")
    assert "full: Q4_0 crashed" in found.advice


def test_a_build_for_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "cpu_flags", lambda: frozenset({"avx2"}))

    def refuse() -> None:
        raise LibraryMissing("llama.cpp was compiled for another CPU")

    monkeypatch.setattr(build_module, "library", refuse)
    record = BuildRecord("full", needs=("avx2", "avx512f"))
    findings = looked_at(record, monkeypatch)
    assert named(findings, "llama.cpp").verdict is PROBLEM
    assert "lacks avx512f" in named(findings, "llama.cpp").value
    assert named(findings, "library").verdict is PROBLEM
    assert "make setup" in named(findings, "library").advice


def test_no_library_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(build_module, "version", missing)
    (found,) = look_at_build()
    assert (found.verdict, found.value) == (PROBLEM, "not installed")


# Ports


def ports(grpc: dict[str, object], *, served: bool = False, http: bool = False) -> list[Finding]:
    config = load_config(flags={"grpc": grpc, "http": {"enabled": http, "port": 0}})
    return list(look_at_ports(config, served))


def test_ports_that_are_free_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        taken, http = ports({"port": port})
        assert (taken.verdict, http.value) == (PROBLEM, "switched off")
        assert "address already in use" in taken.value
        assert "--port" in taken.advice
        beside, _ = ports({"port": port}, served=True)
        assert beside.verdict is OK
    free, _ = ports({"port": port})
    assert (free.verdict, free.value) == (OK, f"127.0.0.1:{port} is free")
    *_, any_port = ports({"port": port}, http=True)
    assert any_port.value == "127.0.0.1:0: any free port"


def test_sockets_in_the_file_system(socket_folder: Path) -> None:
    path = socket_folder / "socket"
    free, _ = ports({"host": f"unix:{path}"})
    assert free.verdict is OK
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        taken, _ = ports({"host": f"unix:{path}"})
    assert taken.verdict is PROBLEM
    left, _ = ports({"host": f"unix:{path}"})
    assert left.verdict is OK
    nowhere, _ = ports({"host": f"unix:{socket_folder / 'no' / 'socket'}"})
    assert nowhere.verdict is PROBLEM


# The configuration


def test_what_differs_from_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVING_ENGINE_GRPC__PORT", "50099")
    file = tmp_path / "server.toml"
    file.write_text("[model.runner]\nthreads = 3\n")
    findings = list(look_at_configuration(load_config(file), file))
    told = {finding.name: finding.value for finding in findings}
    assert told == {
        "file": str(file),
        "environment": "LLM_SERVING_ENGINE_GRPC__PORT",
        "grpc.port": "50099",
        "model.runner.threads": "3",
    }
    assert {finding.verdict for finding in findings} == {OK}


def test_a_configuration_that_makes_no_sense(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("unknown = 1\n[grpc]\nport = -1\n")
    with pytest.raises(ConfigError) as raised:
        load_config(file)
    findings = list(invalid_configuration(raised.value, file))
    assert [finding.verdict for finding in findings] == [PROBLEM, PROBLEM]
    assert "grpc.port" in " ".join(finding.value for finding in findings)
    assert {finding.advice for finding in findings} == {
        f"correct it in {file} or in the environment"
    }


# How it is told

FINDINGS = [
    Finding("machine", "processor", "fast [really]"),
    note("build", "self-check", "not done", "do it"),
    problem("ports", "gRPC", "in use", "choose another"),
]


def test_a_pipe_gets_lines_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor_report.print_findings(iter(FINDINGS), as_json=False) == FINDINGS
    assert capsys.readouterr().out.splitlines() == [
        "ok\tmachine\tprocessor\tfast [really]",
        "note\tbuild\tself-check\tnot done\tdo it",
        "problem\tports\tgRPC\tin use\tchoose another",
    ]


def test_json_holds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    doctor_report.print_findings(iter(FINDINGS), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert told["findings"] == [finding.to_json() for finding in FINDINGS]
    doctor_report.print_findings(iter(FINDINGS[:2]), as_json=True)
    assert json.loads(capsys.readouterr().out)["ok"] is True


@pytest.mark.parametrize(
    ("findings", "last"),
    [
        (FINDINGS, "1 to be mended; notes: 1"),
        (FINDINGS[:2], "all ok; notes: 1"),
        (FINDINGS[:1], "all ok"),
    ],
)
def test_a_terminal_gets_sections(
    findings: list[Finding], last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, color_system=None, width=80)
    monkeypatch.setattr(doctor_report, "Console", lambda: console)
    doctor_report.print_findings(iter(findings), as_json=False)
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    assert lines[0] == "machine"
    assert lines[1].split() == ["ok", "processor", "fast", "[really]"]
    assert lines[-1] == last


# The command


def doctor(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llm_serving_engine", "doctor", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_server(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("[grpc]\nport = 0\n[http]\nport = 0\n")
    done = doctor("--config", file, "--model", "builtin", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["ok"]
    sections = list(dict.fromkeys(finding["section"] for finding in told["findings"]))
    assert sections == ["machine", "build", "model", "ports", "configuration"]


def test_a_problem_is_the_exit_code(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("[grpc]\nport = -1\n")
    done = doctor("--config", file)
    assert (done.returncode, done.stderr) == (1, "")
    assert "problem\tconfiguration\tinvalid\tgrpc.port" in done.stdout


def test_beside_a_server(tiny_model_path: Path) -> None:
    with serve_process("--model", str(tiny_model_path)) as server:
        findings = list(look_at_server(server.address))
    assert {finding.verdict for finding in findings} == {OK}
    assert named(findings, "tiny: state").value == "ready, run by llama.cpp"
    assert named(findings, "tiny: slots").value.startswith("16 slots of ")
    assert "threads " in named(findings, "tiny: settings").value


def test_no_server_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    (found,) = look_at_server(address)
    assert found.verdict is PROBLEM
    assert "--address" in found.advice


def test_help_has_an_example() -> None:
    done = doctor("--help")
    assert done.returncode == 0
    assert "Example: llm-serving-engine doctor" in done.stdout
