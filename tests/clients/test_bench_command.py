"""The workloads through the command, against a server without a model."""

from __future__ import annotations

import json
from typing import get_args, get_origin

import grpc
import pytest
import typer
from typer.testing import CliRunner

from llm_serving_engine.clients.bench.workloads import WORKLOADS
from llm_serving_engine.clients.commands import bench_options, register
from llm_serving_engine.v1 import generation_pb2

WARM_UP_TOKENS = 8


@pytest.fixture
def bench(server, tmp_path):
    """Runs a workload; the outcome, and what it wrote."""
    app = typer.Typer()
    register(app)
    file = tmp_path / "bench.json"

    def invoke(workload, arguments):
        words = f"bench --workload {workload} {arguments} --address {server.address} --json {file}"
        outcome = CliRunner().invoke(app, words.split())
        return outcome, json.loads(file.read_text()) if file.exists() else None

    return invoke


def test_the_option_names_every_workload():
    (literal, _option) = get_args(bench_options.Workload)
    assert get_origin(literal) is not None
    assert get_args(literal) == tuple(WORKLOADS)


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
    classes = [request.priority for request in server.requests[17:19]]
    assert classes == [generation_pb2.PRIORITY_HIGH] * 2
    assert generation_pb2.PRIORITY_LOW in {request.priority for request in server.requests}


def test_determinism(bench, server):
    outcome, found = bench("determinism", "--requests 12 --prompt-words 3 --max-tokens 6")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    (result,) = found["results"]
    assert (result["requests"], result["identical"], result["differences"]) == (12, 12, [])
    measured = server.requests[12:]
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


def test_fairness(bench, server):
    outcome, found = bench(
        "fairness", "--ratio 2 --seconds 2 --prompt-words 3 --max-tokens 2 --tenant acme"
    )
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    few, many, both = found["results"]
    assert (few["tenant"], many["tenant"]) == ("bench-few", "bench-many")
    # Two more than half of the slots, and twice as many; each client sends 20.
    assert (few["requests"], many["requests"]) == (80, 160)
    assert few["output_tokens"] <= 80 * 2
    assert both["both_waited_seconds"] > 0
    tenants = [metadata["x-tenant-id"] for metadata in server.metadata]
    assert [tenants.count(name) for name in ("acme", "bench-few", "bench-many")] == [12, 80, 160]


def test_churn(bench, server):
    outcome, found = bench("churn", "--clients 2 --rounds 1 --prompt-words 4 --max-tokens 8")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    (result,) = found["results"]
    measured = server.requests[2:]
    assert (result["clients"], result["requests"]) == (2, len(measured))
    assert result["output_tokens"] == sum(request.max_tokens for request in measured)
    assert len({request.max_tokens for request in measured}) > 1


def test_refusals_under_load_are_counted(bench, server):
    full = server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
    server.fail_after = (WARM_UP_TOKENS, full)
    outcome, found = bench("fairness", "--ratio 1 --seconds 0.5 --max-tokens 9")
    assert outcome.exit_code == 1
    few, many, _both = found["results"]
    refused = [one["errors"]["RESOURCE_EXHAUSTED"] for one in (few, many)]
    assert outcome.stderr == f"error: requests failed: {sum(refused)} RESOURCE_EXHAUSTED\n"
    assert (few["finished"], many["finished"]) == (0, 0)
