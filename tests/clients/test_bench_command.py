"""The workloads through the command, against a server without a model."""

from __future__ import annotations

import json
import shlex
from typing import get_args, get_origin

import grpc
import pytest
import typer
from completion_server import LLAMA, OPENAI, Completions, in_a_thread
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from typer.testing import CliRunner

from llm_serving_engine.clients.bench import loop, session
from llm_serving_engine.clients.bench.workloads import WORKLOADS
from llm_serving_engine.clients.commands import bench_options, register
from llm_serving_engine.v1 import generation_pb2

WARM_UP_TOKENS = 8


@pytest.fixture(autouse=True)
def without_settling(monkeypatch):
    """No test depends on what a server still does for those who left."""
    monkeypatch.setattr(session, "SETTLE_SECONDS", 0)


@pytest.fixture
def bench(server, tmp_path):
    """Runs a workload; the outcome, and what it wrote."""
    app = typer.Typer()
    register(app)
    file = tmp_path / "bench.json"

    def invoke(workload, arguments):
        words = f"bench --workload {workload} {arguments} --address {server.address}"
        outcome = CliRunner().invoke(app, [*shlex.split(words), "--json", str(file)])
        return outcome, json.loads(file.read_text()) if file.exists() else None

    return invoke


def test_the_option_names_every_workload():
    (literal, _option) = get_args(bench_options.Workload)
    assert get_origin(literal) is not None
    assert get_args(literal) == tuple(WORKLOADS)


@pytest.mark.parametrize("option", ["--json", "--html"])
@pytest.mark.parametrize("name", ["", "no-folder/report"], ids=["a folder", "no folder"])
def test_a_report_that_cannot_be_written_is_told_before_the_run(server, tmp_path, option, name):
    app = typer.Typer()
    register(app)
    outcome = CliRunner().invoke(
        app, ["bench", "--address", server.address, option, str(tmp_path / name)]
    )
    assert outcome.exit_code == 1
    assert "cannot be written: it is a folder, or its folder does not exist" in outcome.stderr
    assert server.requests == []


def test_shared_prefix(bench, server):
    outcome, found = bench(
        "shared-prefix", "--clients 3 --rounds 2 --prefix-words 9 --prompt-words 4 --max-tokens 2"
    )
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert [one["clients"] for one in found["results"]] == [3, 3]
    # The server says of each prompt that 1 of its 3 tokens was in the cache.
    assert [one["prompt_tokens"] for one in found["results"]] == [{"total": 9, "cached": 3}] * 2
    measured = server.requests[3:]
    heads = [" ".join(request.prompt.split()[:9]) for request in measured]
    assert [len(set(heads[:3])), len(set(heads[3:])), len(set(heads))] == [1, 1, 2]


def test_priority(bench, server):
    outcome, found = bench(
        "priority", "--idle-requests 2 --seconds 1 --prompt-words 3 --max-tokens 5"
    )
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    idle, high, low, added = found["results"]
    assert (idle["requests"], idle["finished"], found["settings"]["slots"]) == (2, 2, 4)
    assert low["finished"] > 0
    assert high["requests"] > 0
    assert set(added["added_by_the_load"]) == {"p50", "p95", "p99", "max"}
    classes = [request.priority for request in server.requests[4:6]]
    assert classes == [generation_pb2.PRIORITY_HIGH] * 2
    assert generation_pb2.PRIORITY_LOW in {request.priority for request in server.requests}


def test_determinism(bench, server):
    outcome, found = bench("determinism", "--requests 12 --prompt-words 3 --max-tokens 6")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    (result,) = found["results"]
    assert (result["requests"], result["identical"], result["differences"]) == (12, 12, [])
    measured = server.requests[4:]
    alone, together = measured[:12], measured[12:]
    assert sorted(request.prompt for request in alone) == sorted(
        request.prompt for request in together
    )
    assert len({request.cache_salt for request in alone}) == 12
    assert len({request.cache_salt for request in together}) == 1
    assert {request.sampling.temperature for request in together} > {0}


def test_determinism_fails_where_answers_differ(bench, server):
    events = server._events

    async def other_events(request, context):
        async for response in events(request, context):
            if "/" not in request.cache_salt and response.HasField("delta"):
                response.delta.token_ids[0] += request.priority == generation_pb2.PRIORITY_LOW
            yield response

    server._events = other_events
    outcome, found = bench("determinism", "--requests 12 --prompt-words 3 --max-tokens 6")
    (result,) = found["results"]
    low = sum(request.priority == generation_pb2.PRIORITY_LOW for request in server.requests) // 2
    assert len(result["differences"]) == low > 0
    assert result["identical"] == 12 - low
    assert outcome.exit_code == 1
    assert outcome.stderr == f"error: {low} of 12 answers differ\n"
    assert "parts at token 0: 0 alone, 1 together" in outcome.stdout


@pytest.fixture
def few_requests(monkeypatch):
    """Clients are done long before their time is over, on the slowest machine too."""
    monkeypatch.setattr(loop, "REQUESTS_PER_SECOND_MAX", 0.2)


@pytest.mark.usefixtures("few_requests")
def test_fairness(bench, server):
    outcome, found = bench(
        "fairness", "--ratio 2 --seconds 100 --prompt-words 3 --max-tokens 2 --tenant acme"
    )
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    few, many, both = found["results"]
    assert (few["tenant"], many["tenant"]) == ("bench-few", "bench-many")
    # Two more than half of the slots, and twice as many; each client sends 20.
    assert (few["requests"], many["requests"]) == (80, 160)
    assert few["output_tokens"] <= 80 * 2
    assert both["both_waited_seconds"] > 0
    tenants = [metadata["x-tenant-id"] for metadata in server.metadata]
    assert [tenants.count(name) for name in ("acme", "bench-few", "bench-many")] == [4, 80, 160]


def test_churn(bench, server):
    outcome, found = bench("churn", "--clients 2 --rounds 1 --prompt-words 4 --max-tokens 8")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    (result,) = found["results"]
    measured = server.requests[2:]
    assert (result["clients"], result["requests"]) == (2, len(measured))
    assert result["output_tokens"] == sum(request.max_tokens for request in measured)
    assert len({request.max_tokens for request in measured}) > 1


def test_burst(bench, server):
    outcome, found = bench("burst", "--clients 9 --rounds 1 --prompt-words 4 --max-tokens 2")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    (result,) = found["results"]
    assert (result["clients"], result["finished"], result["output_tokens"]) == (9, 9, 18)
    assert "tiny" in outcome.stdout


def test_chat_sends_what_was_said_so_far(bench, server):
    outcome, found = bench(
        "chat", "--conversations 1 --turns 2 --rounds 1 --prompt-words 3 --max-tokens 2"
    )
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert [one["turn"] for one in found["results"]] == [1, 2]
    first, second = (request.prompt for request in server.requests[1:])
    assert second.startswith(f"{first}w0 w1 \nQuestion: ")


def test_overload_measures_first_and_then_sends_twice_that(bench, server):
    outcome, found = bench("overload", "--seconds 0.3 --prompt-words 3 --max-tokens 5")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    (result,) = found["results"]
    assert found["settings"]["rate"] > 0
    assert result["requests"] == result["in_time"] + result["late"] + result["refused"] > 0
    assert result["retry_info"] == 0


def test_overload_tells_refusals_from_failures(bench, server):
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=2))
    full, admit = server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", retry), server._admit

    async def refuse_after_the_warm_up(request, context):
        await admit(request, context)
        if request.max_tokens == 9:
            await full(context)

    server._admit = refuse_after_the_warm_up
    outcome, found = bench("overload", "--rate 100 --seconds 0.1 --max-tokens 9 --deadline 30")
    (result,) = found["results"]
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert result["refused"] == result["retry_info"] == result["requests"] > 0
    assert result["errors"] == {"RESOURCE_EXHAUSTED": result["requests"]}


@pytest.mark.parametrize("kind", [LLAMA, OPENAI])
def test_against_another_server(bench, server, tmp_path, kind):
    page = tmp_path / "report.html"
    with in_a_thread(Completions(kind)) as other:
        outcome, found = bench(
            "steady",
            "--clients 2 --rounds 2 --prompt-words 3 --max-tokens 4 "
            f"--against {other.url} --html {shlex.quote(str(page))}",
        )
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    nonce = found["run"]["nonce"]
    mine = [request.prompt for request in server.requests][2:]
    assert sorted(mine) == sorted(other.prompts[2:])
    assert len(set(mine)) == 4
    assert all(prompt.startswith(f"{nonce} ") for prompt in mine)
    assert found["against"]["server"]["address"] == other.url
    assert [one["output_tokens"] for one in (*found["results"], *found["against"]["results"])] == [
        16,
        16,
    ]
    assert {len(one["pairs"]) for one in found["comparison"]} == {2}
    assert "This server by the other" in outcome.stdout
    assert other.url in page.read_text()


def test_a_run_of_one_server_has_no_nonce_and_is_the_same_again(bench, server):
    for _ in range(2):
        _, found = bench("steady", "--clients 1 --rounds 1 --prompt-words 3 --max-tokens 2")
        assert found["run"]["nonce"] == ""
    _, first, _, second = server.requests
    assert first.prompt == second.prompt
    assert first.cache_salt != second.cache_salt


def test_another_server_that_is_not_there(bench, server):
    outcome, found = bench("steady", "--against http://127.0.0.1:1")
    assert (outcome.exit_code, found) == (1, None)
    assert outcome.stderr.startswith("error: nothing was measured: http://127.0.0.1:1: ")
    assert outcome.stderr.count("\n") == 1


def test_a_server_of_another_kind_alone(server):
    app = typer.Typer()
    register(app)
    with in_a_thread(Completions()) as other:
        words = f"bench --clients 2 --rounds 1 --max-tokens 3 --address {other.url}"
        outcome = CliRunner().invoke(app, words.split())
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert "llama-server b7-abc" in outcome.stdout
    assert server.requests == []


@pytest.mark.usefixtures("few_requests")
def test_refusals_under_load_are_counted(bench, server):
    full = server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    server.fail_after = (WARM_UP_TOKENS, full)
    outcome, found = bench("fairness", "--ratio 1 --seconds 20 --max-tokens 9")
    assert outcome.exit_code == 1
    few, many, _both = found["results"]
    refused = [one["errors"]["RESOURCE_EXHAUSTED"] for one in (few, many)]
    assert outcome.stderr == f"error: requests failed: {sum(refused)} RESOURCE_EXHAUSTED\n"
    assert (few["finished"], many["finished"]) == (0, 0)
