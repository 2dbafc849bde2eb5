from __future__ import annotations

import json
import signal
import subprocess
import sys

import grpc
import pytest
import typer
from google.rpc import error_details_pb2
from typer.testing import CliRunner

from llm_serving_engine.clients.commands import register
from llm_serving_engine.clients.commands.options import check_address

APP = (
    "import typer\n"
    "from llm_serving_engine.clients.commands import register\n"
    "app = typer.Typer()\n"
    "register(app)\n"
    "app()\n"
)


@pytest.fixture
def run(server):
    app = typer.Typer()
    register(app)

    def invoke(*arguments, stdin=None, address=server.address):
        return CliRunner().invoke(app, [*arguments, "--address", address], input=stdin)

    return invoke


@pytest.mark.parametrize("command", ["generate", "chat", "bench", "top", "explain"])
def test_help_has_an_example(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: llm-serving-engine {command} " in " ".join(result.stdout.split())


@pytest.mark.parametrize("command", ["generate", "chat", "top", "explain"])
@pytest.mark.parametrize("address", ["127.0.0.1", "http://127.0.0.1:8080"])
def test_an_address_without_a_port_or_of_http(run, command, address):
    result = run(command, *(["x"] if command in ("generate", "explain") else []), address=address)
    assert result.exit_code == 2
    assert f"{address!r} is not HOST:PORT" in " ".join(result.stderr.replace("│", " ").split())


def test_generate_streams_the_text(run):
    result = run("generate", "hi", "--max-tokens", "3")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "w0 w1 w2 \n", "")


def test_generate_without_streaming_prints_the_same(run):
    result = run("generate", "hi", "--max-tokens", "3", "--no-stream")
    assert result.stdout == "w0 w1 w2 \n"


def test_generate_reads_the_prompt_from_stdin(run, server):
    assert run("generate", "-", stdin="from a\npipe").exit_code == 0
    assert server.requests[0].prompt == "from a\npipe"


def test_generate_sends_every_option(run, server):
    arguments = (
        "--model tiny --max-tokens 2 --stop A --stop B --priority low --ignore-eos "
        "--top-logprobs 1 --request-id r1 --cache-salt s --temperature 0 --top-p 0.5 --min-p 0.25 "
        "--top-k 0 --seed 7 --repetition-penalty 2 --presence-penalty 1 --frequency-penalty -1 "
        "--logit-bias 4=-100 --logit-bias 5=0.5 --tenant acme"
    )
    assert run("generate", "hi", *arguments.split()).exit_code == 0
    (request,) = server.requests
    assert (request.model, request.max_tokens, list(request.stop)) == ("tiny", 2, ["A", "B"])
    assert (request.priority, request.ignore_eos, request.top_logprobs) == (1, True, 1)
    assert (request.request_id, request.cache_salt) == ("r1", "s")
    sampling = request.sampling
    assert sampling.HasField("temperature")
    assert (sampling.temperature, sampling.top_p, sampling.min_p) == (0, 0.5, 0.25)
    assert sampling.HasField("top_k")
    assert (sampling.top_k, sampling.seed) == (0, 7)
    assert (sampling.repetition_penalty, sampling.presence_penalty) == (2, 1)
    assert sampling.frequency_penalty == -1
    assert dict(sampling.logit_bias) == {4: -100, 5: 0.5}
    assert server.metadata[0]["x-tenant-id"] == "acme"


def test_generate_json_is_one_line_with_everything(run):
    result = run("generate", "hi", "--max-tokens", "1", "--json", "--top-logprobs", "1")
    assert result.stdout.count("\n") == 1
    answer = json.loads(result.stdout)
    assert (answer["text"], answer["token_ids"]) == ("w0 ", [0])
    assert answer["timings"]["time_to_first_token"] == 1.25
    assert bytes(answer["logprobs"][0]["top"][1]["token"]) == b"\xff"


@pytest.mark.parametrize("mode", ["--stream", "--no-stream", "--json"])
def test_generate_says_an_error_in_one_line(run, server, mode):
    bad_request = error_details_pb2.BadRequest()
    server.failures = [server.fail(grpc.StatusCode.INVALID_ARGUMENT, "top_p:\n bad", bad_request)]
    result = run("generate", "hi", mode)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "error: top_p: bad\n")


def test_generate_keeps_what_came_before_an_error(run, server):
    server.fail_after = (1, server.fail(grpc.StatusCode.INTERNAL, "oh"))
    result = run("generate", "hi", "--max-tokens", "9")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "w0 \n", "error: oh\n")


@pytest.mark.parametrize("command", [["generate", "hi"], ["chat"]])
def test_no_server_listens(run, command):
    result = run(*command, address="127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: no connection to a server at 127.0.0.1:1: ")
    assert result.stderr.count("\n") == 1


def test_a_timeout(run, server):
    server.hang_after = 0
    result = run("generate", "hi", "--max-tokens", "1", "--timeout", "0.05")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize(
    "arguments",
    [["--logit-bias", "x"], ["--priority", "urgent"], ["--max-tokens", "0"], ["--top-p", "2"]],
)
def test_usage_errors_exit_with_2(run, server, arguments):
    assert run("generate", "hi", *arguments).exit_code == 2
    assert server.requests == []


def test_an_interrupt_cancels_and_exits_with_130(server):
    server.hang_after = 1
    arguments = ["generate", "hi", "--max-tokens", "9", "--address", server.address]
    with subprocess.Popen(
        [sys.executable, "-c", APP, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout.read(3) == b"w0 "  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, b"\n", b"")
    assert server.ended.wait(30)


def test_an_interrupt_of_a_whole_answer_cancels_too(server):
    server.hang_after = 0
    arguments = ["generate", "hi", "--no-stream", "--address", server.address]
    process = subprocess.Popen(
        [sys.executable, "-c", APP, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    server.on_hang = lambda: process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr) == (130, b"", b"")
    assert server.ended.wait(30)


def test_chat_in_a_pipe_is_a_turn_a_line(run, server):
    result = run("chat", "--system", "Be brief.", "--max-tokens", "2", stdin="one\n\ntwo\n")
    assert (result.exit_code, result.stdout) == (0, "w0 w1 \nw0 w1 \n")
    turns = [(message.role, message.content) for message in server.requests[1].chat.messages]
    assert turns == [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "w0 w1 "),
        ("user", "two"),
    ]


def test_chat_hands_on_template_arguments(run, server):
    arguments = ["--template-arg", "enable_thinking=false", "--template-arg", "mood=very=merry"]
    assert run("chat", *arguments, stdin="one\n").exit_code == 0
    sent = server.requests[0].chat.template_arguments
    assert dict(sent) == {"enable_thinking": False, "mood": "very=merry"}


@pytest.mark.parametrize("argument", ["enable_thinking", "=1"])
def test_a_template_argument_has_a_name_and_a_value(run, argument):
    result = run("chat", "--template-arg", argument)
    assert result.exit_code == 2
    assert "'--template-arg': an entry is NAME=VALUE" in said(result)


def test_a_logit_bias_has_a_token_and_a_number(run):
    result = run("generate", "hi", "--logit-bias", "x=1")
    assert result.exit_code == 2
    assert "'--logit-bias': an entry is TOKEN=BIAS" in said(result)


@pytest.mark.parametrize("option", ["--top-p", "--repetition-penalty"])
def test_an_option_that_is_above_zero(run, option):
    result = run("generate", "hi", option, "0")
    assert result.exit_code == 2
    assert f"'{option}': must be above 0" in said(result)
    assert "0<=x" not in option_help(run, option)


def said(result):
    return " ".join(result.stderr.replace("│", " ").split())


def option_help(run, option):
    """Its line of the help."""
    lines = run("generate", "--help").stdout.splitlines()
    return next(line for line in lines if f"{option} " in line)


@pytest.mark.parametrize("command", ["generate", "bench", "top"])
@pytest.mark.parametrize("address", ["127.0.0.1:99999", "127.0.0.1:0", "foo:bar", "[::1]:"])
def test_an_address_whose_port_is_none(run, command, address):
    result = run(command, *(["x"] if command == "generate" else []), address=address)
    assert result.exit_code == 2
    assert f"the port of {address!r} is not a number from 1 to 65535" in said(result)


@pytest.mark.parametrize("address", ["unix:/run/x.sock", "dns:///a:1", "[::1]:50051", "a:65535"])
def test_an_address_that_grpc_can_connect_to(address):
    assert check_address(address) == address


def test_chat_resets_and_exits(run, server):
    stdin = "one\n/reset\ntwo\n/exit\nthree\n"
    assert run("chat", "--max-tokens", "1", stdin=stdin).exit_code == 0
    assert [len(request.chat.messages) for request in server.requests] == [1, 1]


def test_chat_in_a_pipe_ends_with_the_first_error(run, server):
    server.failures = [server.fail(grpc.StatusCode.INTERNAL, "oh")]
    result = run("chat", stdin="one\ntwo\n")
    assert (result.exit_code, result.stderr) == (1, "error: oh\n")
    assert len(server.requests) == 1


def test_bench_prints_a_table_and_writes_json(run, server, tmp_path):
    file = tmp_path / "bench.json"
    arguments = "bench --clients 1,3 --rounds 2 --max-tokens 5 --prompt-words 4 --json"
    result = run(*arguments.split(), str(file))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "tokens/s" in result.stdout
    found = json.loads(file.read_text())
    one, three = found["results"]
    assert (one["clients"], one["requests"], one["output_tokens"]) == (1, 2, 10)
    assert (three["clients"], three["requests"], three["output_tokens"]) == (3, 6, 30)
    measured = server.requests[3:]  # after the warm-up, as wide as the widest
    assert len({request.prompt for request in measured}) == len(measured) == 8
    assert all(request.ignore_eos and request.max_tokens == 5 for request in measured)
    assert len({request.cache_salt for request in server.requests}) == 1


def test_bench_interference(run):
    result = run("bench", "--workload", "interference", "--rounds", "1", "--long-words", "9")
    assert result.exit_code == 0
    assert "worst gap while the long prompt came in" in result.stdout


def test_bench_counts_what_failed_and_fails(run, server):
    full = server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    server.fail_after = (8, full)  # The warm-up is 8 tokens long, and passes.
    result = run("bench", "--clients", "2", "--rounds", "1", "--max-tokens", "9")
    assert result.exit_code == 1
    assert "2 RESOURCE_EXHAUSTED" in result.stdout
    assert result.stderr == "error: requests failed: 2 RESOURCE_EXHAUSTED\n"


def test_bench_says_in_one_line_that_no_server_listens(run):
    result = run("bench", address="127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: nothing was measured: 127.0.0.1:1: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("clients", ["", "0", "1,x", "4,-1"])
def test_bench_refuses_numbers_of_clients_that_are_none(run, clients):
    assert run("bench", "--clients", clients).exit_code == 2


def test_explain_prints_no_control_characters(run):
    result = run("explain", "ab", "--model", "m")
    assert result.exit_code == 0
    assert result.stdout.startswith("request ab of ")
    assert result.stdout.splitlines()[1:] == ["  It?waited."]
