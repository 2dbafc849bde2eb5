"""`serve` as whoever operates it sees it: its signals, its exit codes, its words."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from running_server import asked
from serve_process import ServeProcess, serve_process, serve_that_fails

from llm_serving_engine.v1 import inference_pb2_grpc

# A stream that outlives every signal that a test sends while it runs.
LONG = asked(max_tokens=4000)


class Client:
    """A connection to a process."""

    def __init__(self, server: ServeProcess) -> None:
        self.channel = grpc.insecure_channel(server.address)
        self.stub: Any = inference_pb2_grpc.InferenceServiceStub(self.channel)

    def begin(self) -> Iterator[Any]:
        """A stream that has begun."""
        stream: Iterator[Any] = self.stub.Stream(LONG, wait_for_ready=True)
        assert next(stream).HasField("started")
        return stream


def freeze_runner(server: ServeProcess) -> psutil.Process:
    """Hold up whatever runs, until the runner is resumed."""
    runner = server.runner
    runner.suspend()
    return runner


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended. Where nobody collects orphans, it stays as a zombie."""
    psutil.wait_procs([process], timeout=60)
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_running_streams_finish(number: signal.Signals) -> None:
    # However long a slow machine takes for them.
    env = {"LLM_SERVING_ENGINE_DRAIN_SECONDS": "3600"}
    with serve_process("--backend", "scripted", env=env) as server:
        client = Client(server)
        stream = client.begin()
        runner = freeze_runner(server)
        # As a terminal and a service manager do, which send it to the whole group.
        runner.send_signal(number)
        server.signal(number)
        server.wait_for("stopping")
        # Shell and kernel both send it when a terminal is closed.
        server.signal(signal.SIGHUP)
        # The word comes just before the refusals begin: until then a call would wait.
        assert refusal(client).code() is grpc.StatusCode.UNAVAILABLE
        runner.resume()
        events = list(stream)
        assert events[-1].HasField("finished")
        assert events[-1].finished.usage.completion_tokens == 4000
        code, stderr = server.end()
        assert code == 0
        assert "Traceback" not in stderr
        assert stderr.count("request finished") == 1
        assert gone(runner)


def test_under_nohup_a_closed_terminal_changes_nothing() -> None:
    with serve_process("--backend", "scripted", wrapper=("nohup",)) as server:
        client = Client(server)
        stream = client.begin()
        runner = freeze_runner(server)
        runner.send_signal(signal.SIGHUP)
        server.signal(signal.SIGHUP)
        runner.resume()
        assert list(stream)[-1].finished.usage.completion_tokens == 4000
        assert client.stub.Generate(asked()).text
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0


def refusal(client: Client) -> Any:
    """Ask until the server refuses: it has heard the signal then."""
    while True:
        with pytest.raises(grpc.RpcError) as caught:
            client.stub.Generate(asked(), timeout=0.5)
        if caught.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
            return caught.value


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(first: signal.Signals) -> None:
    with serve_process("--backend", "scripted") as server:
        client = Client(server)
        stream = client.begin()
        runner = freeze_runner(server)
        server.signal(first)
        server.wait_for("stopping")
        refusal(client)
        server.signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        runner.resume()
        code, stderr = server.end()
        assert code == 128 + signal.SIGTERM
        assert "Traceback" not in stderr
        assert gone(runner)


def test_streams_that_outlast_the_grace() -> None:
    env = {"LLM_SERVING_ENGINE_DRAIN_SECONDS": "0.1"}
    with serve_process("--backend", "scripted", env=env) as server:
        stream = Client(server).begin()
        runner = freeze_runner(server)
        server.signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        runner.resume()
        assert server.end()[0] == 0


def test_a_killed_server_leaves_no_runner() -> None:
    with serve_process("--backend", "scripted") as server:
        runner = server.runner
        server.signal(signal.SIGKILL)
        server.end()
        assert gone(runner)


def test_a_killed_server_leaves_no_runner_in_a_step() -> None:
    with serve_process("--backend", "scripted") as server:
        stream = Client(server).begin()
        runner = freeze_runner(server)
        server.signal(signal.SIGKILL)
        with pytest.raises(grpc.RpcError):
            list(stream)
        runner.resume()
        server.end()
        assert gone(runner)


# Starts that fail: one line on stderr, exit code 1.


def fails(*arguments: str, env: dict[str, str] | None = None) -> str:
    """The one line that a start fails with."""
    code, stderr = serve_that_fails("--port", "0", "--http-port", "0", *arguments, env=env)
    assert code == 1
    line, *more = stderr.splitlines()
    assert more == []
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("flag", ["--port", "--http-port"])
def test_a_port_in_use(flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = fails("--backend", "scripted", flag, str(port))
    assert f"127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[scheduler]\nqueue_requests_max = 0", "queue_requests_max is 0"),
        ("[scheduler]\nnonsense = 1", "scheduler.nonsense"),
        ("[nonsense]\na = 1", "nonsense"),
        ("drain_seconds = -1", "drain_seconds"),
        ("[model.runner]\nsequences = 'many'", "model.runner.sequences"),
        ("[log]\nlevel = 'loud'", "log.level"),
        ("this is no TOML", "config.toml"),
        ("[generation]\ntemperature = nan", "generation.temperature"),
    ],
)
def test_a_bad_configuration_file(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    assert words in fails("--backend", "scripted", "--config", str(path))


def test_a_configuration_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    assert str(path) in fails("--config", str(path))


def test_a_bad_variable() -> None:
    env = {"LLM_SERVING_ENGINE_GRPC__KEEPALIVE_SECONDS": "0"}
    assert "grpc.keepalive_seconds" in fails("--backend", "scripted", env=env)


def test_a_bad_flag() -> None:
    assert "model.backend" in fails("--backend", "nothing")
    for flag, port in (("--port", "many"), ("--port", "65536"), ("--http-port", "-1")):
        code, stderr = serve_that_fails(flag, port)
        assert code == 2
        assert f"'{flag}'" in stderr


def truncated(path: Path, model: bytes) -> None:
    path.write_bytes(model[: len(model) * 3 // 4])


def empty(path: Path, model: bytes) -> None:
    path.write_bytes(b"")


def unknown_architecture(path: Path, model: bytes) -> None:
    # Of the same length, wherever it is named.
    path.write_bytes(model.replace(b"llama", b"xxxxx"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (truncated, "truncated"),
        (empty, "not a GGUF file"),
        (unknown_architecture, "architecture"),
    ],
)
def test_a_server_lives_without_its_model_until_the_file_is_mended(
    spoil: Callable[[Path, bytes], None], words: str, tiny_model_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    spoil(path, tiny_model_path.read_bytes())
    often = {"LLM_SERVING_ENGINE_MODEL__SUPERVISION__RESTART_DELAY_SECONDS_MAX": "0.2"}
    with serve_process("--model", str(path), env=often) as server:
        assert "without a model" in server.announced[-1]
        client = Client(server)
        with pytest.raises(grpc.RpcError) as raised:
            client.stub.Generate(asked())
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        mended = tmp_path / "mended"
        shutil.copy(tiny_model_path, mended)
        mended.replace(path)
        server.wait_for("listening on")
        assert client.stub.Generate(asked()).text
        client.channel.close()
        server.signal(signal.SIGTERM)
        code, stderr = server.end()
    assert code == 0
    line = stderr.splitlines()[0]
    assert line.startswith(f"error: {path}")
    assert words in line


def test_a_model_whose_name_is_not_utf_8(tiny_model_path: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"tiny\xff.gguf")
    shutil.copy(tiny_model_path, path)
    with serve_process("--model", str(path)) as server:
        client = Client(server)
        answer = client.stub.Generate(asked())
        assert (answer.model, len(answer.token_ids)) == ("tiny?", 8)
        client.channel.close()


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.gguf"
    assert f"there is no file {path}" in fails("--model", str(path))


def test_a_runner_that_cannot_be_had(tiny_model_path: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[model.runner]\ncontext_per_sequence = 1000000")
    line = fails("--model", str(tiny_model_path), "--config", str(config))
    assert "context_per_sequence is 1000000; the model was trained for 1024" in line


# What it says of itself


def test_flags_come_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        "[model]\nbackend = 'scripted'\nname = 'from-file'\n"
        "[grpc]\nport = 1\n[http]\nport = 1\n[log]\nformat = 'json'"
    )
    env = {"LLM_SERVING_ENGINE_MODEL__NAME": "from-environment"}
    with serve_process("--config", str(config), env=env) as server:
        client = Client(server)
        assert client.stub.Generate(asked(), wait_for_ready=True).model == "from-environment"
        client.channel.close()
        server.signal(signal.SIGTERM)
        code, stderr = server.end()
        assert code == 0
        assert stderr.startswith('{"time": ')


def test_a_step_target_that_the_least_step_exceeds() -> None:
    env = {"LLM_SERVING_ENGINE_SCHEDULER__STEP_TARGET_SECONDS": "0.001"}
    with serve_process("--backend", "scripted", env=env) as server:
        text = "\n".join(server.announced)
        assert "step target: 1 ms, as configured; prompts delay streams for about" in text
        assert "which rows and the shortest chunk take" in text


def test_announcement_memory_and_http() -> None:
    # One thread: two that wait for each other crawl where a core is taken by something else.
    env = {"LLM_SERVING_ENGINE_MODEL__RUNNER__THREADS": "1"}
    with serve_process("--model", "builtin", env=env) as server:
        text = "\n".join(server.announced)
        assert re.search(r"sequences \d+, context_per_sequence \d+, threads \d+", text)
        announced = int(re.findall(r"memory of the runner: (\d+) MB", text)[0]) * 1e6
        assert "smollm2" in text.lower()
        (target,) = re.findall(r"step target: (\d+) ms, from the costs of calls; prompts", text)
        assert 125 <= int(target) <= 500

        client = Client(server)
        with ThreadPoolExecutor(16) as pool:
            asking = [asked(f"Tell me about {i}.", max_tokens=4) for i in range(32)]
            answers = list(pool.map(lambda one: client.stub.Generate(one), asking))
        assert all(answer.text for answer in answers)

        taken = server.runner.memory_info().rss
        assert abs(announced - taken) <= 0.15 * taken
        assert psutil.Process(server.process.pid).memory_info().rss < 200e6

        with urllib.request.urlopen(f"{server.http}/healthz") as answer:
            assert answer.read() == b"SERVING\n"
        with urllib.request.urlopen(f"{server.http}/metrics") as answer:
            page = answer.read().decode()
        assert re.search(r'requests_total\{model="[^"]*",outcome="finished"\} 32', page)


def test_a_line_for_each_request_and_no_prompt() -> None:
    secret = "Tell nobody of this prompt"
    with serve_process("--backend", "scripted") as server:
        client = Client(server)
        answer = client.stub.Generate(asked(secret, request_id="mine"), wait_for_ready=True)
        with pytest.raises(grpc.RpcError):
            client.stub.Generate(asked(secret, max_tokens=0, request_id="invalid"))
        with pytest.raises(grpc.RpcError):
            client.stub.Generate(asked(secret, request_id="\n" + "x" * 9_000))
        stream = client.stub.Stream(asked(secret, max_tokens=4000, request_id="leaver"))
        next(stream)
        stream.cancel()
        client.channel.close()
        server.signal(signal.SIGTERM)
        code, stderr = server.end()
        assert code == 0
        lines = stderr.splitlines()
        assert len(lines) == 4
        assert all(len(line) < 1000 for line in lines)
        assert secret not in stderr
        assert answer.text[:6] not in stderr
        outcomes = [re.findall(r"outcome=(\w+)", line)[0] for line in lines]
        assert outcomes == ["finished", "refused", "refused", "cancelled"]
        assert "request_id=mine" in lines[0]
