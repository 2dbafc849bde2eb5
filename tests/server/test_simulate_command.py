"""`simulate`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner

from llm_serving_engine.server.commands.simulate import register
from llm_serving_engine.server.request_history.timeline import FORMAT
from llm_serving_engine.server.simulator.costs import DEFAULT_COSTS, Costs
from llm_serving_engine.server.simulator.replay_settings import ReplaySettings, write_settings
from llm_serving_engine.server.simulator.trace import TraceRecord, read_trace, write_trace
from llm_serving_engine.server.simulator.trace_example import example_trace

Run = Callable[..., Any]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    register(app)
    write_trace(tmp_path / "trace.jsonl", example_trace()[::6])
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_help_has_an_example(run: Run) -> None:
    shown = run("--help")
    assert shown.exit_code == 0
    assert "Example: llm-serving-engine simulate --example" in " ".join(shown.stdout.split())


def test_the_example_can_be_replayed(run: Run) -> None:
    written = run("--example", "example.jsonl")
    assert written.exit_code == 0
    assert "simulate --trace example.jsonl" in written.stdout
    assert read_trace(Path("example.jsonl")) == example_trace()


def test_the_tables_show_each_policy_and_class(run: Run) -> None:
    shown = run("--trace", "trace.jsonl", "--policy", "fair, first_come,fair")
    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = [line.split() for line in shown.stdout.splitlines() if line.split()]
    firsts = [line[0] for line in lines]
    for name in ("critical", "high", "normal", "low", "all"):
        assert firsts.count(name) == 2
    assert firsts.count("first_come") == 2  # its table, and a row of the last one
    assert "…" not in shown.stdout


def test_json_has_all_numbers_and_how_they_came_about(run: Run) -> None:
    done = run(
        *("--trace", "trace.jsonl", "--policy", "fair,shortest_job", "--json", "result.json"),
        *("--slots", "3", "--context", "500", "--step-target-ms", "50"),
    )
    assert done.exit_code == 0, done.stderr
    result = json.loads(Path("result.json").read_text())
    capabilities = result["server"]["capabilities"]
    assert (capabilities["slots"], capabilities["context"]) == (3, 500)
    assert result["server"]["config"]["step_target_seconds"] == 0.05
    assert result["server"]["costs"] == DEFAULT_COSTS._asdict()
    assert result["recorded"] is None
    assert [policy["policy"] for policy in result["policies"]] == ["fair", "shortest_job"]
    for policy in result["policies"]:
        assert policy["all"]["requests"] == 44
        assert policy["steps"] > 0


def slow(factor: float) -> ReplaySettings:
    return ReplaySettings(costs=Costs._make(factor * seconds for seconds in DEFAULT_COSTS))


def test_a_given_server_is_used_and_else_the_one_beside_the_trace(run: Run) -> None:
    makespans = []
    write_settings(Path("other.json"), slow(10))
    write_settings(Path("trace.server.json"), slow(1))
    for arguments in ((), ("--server", "other.json")):
        done = run("--trace", "trace.jsonl", "--json", "result.json", *arguments)
        assert done.exit_code == 0, done.stderr
        makespans.append(json.loads(Path("result.json").read_text())["policies"][0]["makespan"])
    assert makespans[1] > 3 * makespans[0]


def test_what_the_trace_recorded_is_shown_beside_the_replay(run: Run) -> None:
    took = TraceRecord(0.0, 20, 11, 11, first_token_seconds=0.25, seconds=2.25)
    write_trace(Path("took.jsonl"), [took])
    done = run("--trace", "took.jsonl", "--json", "result.json", "--picture", "p.svg")
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["recorded", "0.25", "0.25", "200", "4.89"] in lines
    recorded = json.loads(Path("result.json").read_text())["recorded"]
    assert (recorded["ttft_p90"], recorded["tpot_p50"]) == (0.25, 0.2)
    texts = [element.text for element in ElementTree.parse("p.svg").iter(f"{SVG}text")]
    assert texts.count("normal, recorded") == 1


def test_a_servers_configuration_is_used(run: Run) -> None:
    Path("server.toml").write_text(
        "[scheduler]\nprefix_cache = false\n[model.runner]\nsequences = 5\n"
    )
    run("--trace", "trace.jsonl", "--config", "server.toml", "--json", "result.json")
    result = json.loads(Path("result.json").read_text())
    assert result["server"]["capabilities"]["slots"] == 5
    assert result["policies"][0]["prefix_hits"] == 0


def test_the_picture_shows_classes_and_tenants(run: Run) -> None:
    done = run("--trace", "trace.jsonl", "--policy", "fair,first_come", "--picture", "p.svg")
    assert done.exit_code == 0, done.stderr
    root = ElementTree.parse("p.svg").getroot()
    texts = [element.text for element in root.iter(f"{SVG}text")]
    for text in ("fair", "first_come"):
        assert texts.count(text) == 1
    for text in ("critical", "high", "normal", "low", "greedy", "modest"):
        assert texts.count(text) == 2
    lines = list(root.iter(f"{SVG}polyline"))
    assert len(lines) == 2 * (4 + 2)
    width = float(root.attrib["width"])
    for line in lines:
        points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        assert len(points) >= 2
        assert points == sorted(points, key=lambda point: point[0])
        assert all(0 <= x <= width and y >= 0 for x, y in points)


def test_a_picture_of_a_tenant_that_is_markup(run: Run) -> None:
    line = {"at": 0, "tenant": "<&\x01", "prompt_tokens": 5, "output_tokens": 1, "max_tokens": 1}
    Path("odd.jsonl").write_text(json.dumps(line))
    assert run("--trace", "odd.jsonl", "--picture", "p.svg").exit_code == 0
    texts = [element.text for element in ElementTree.parse("p.svg").iter(f"{SVG}text")]
    assert "<&?" in texts


def test_a_trace_of_which_all_is_refused(run: Run) -> None:
    line = {"at": 0, "prompt_tokens": 100, "output_tokens": 1, "max_tokens": 1}
    Path("large.jsonl").write_text(json.dumps(line))
    done = run("--trace", "large.jsonl", "--context", "50", "--picture", "p.svg")
    assert done.exit_code == 0, done.stderr
    assert "0/1" in done.stdout


def test_a_policy_of_ones_own(run: Run) -> None:
    Path("tried_policy.py").write_text(
        "from llm_serving_engine.scheduler.policy import Policy\n"
        "class LastCome(Policy):\n"
        "    def key(self, sequence, now):\n"
        "        return (-sequence.arrived_at,)\n"
    )
    Path("server.toml").write_text('[scheduler]\npolicy = "tried_policy:LastCome"\n')
    done = run(
        *("--trace", "trace.jsonl", "--config", "server.toml"),
        *("--policy", "tried_policy:LastCome"),
    )
    assert done.exit_code == 0, done.stderr
    assert "tried_policy:LastCome" in done.stdout
    configured = run("--trace", "trace.jsonl", "--config", "server.toml")
    assert configured.stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--trace missing.jsonl", "missing.jsonl: No such file"),
        ("--trace bad.jsonl", "bad.jsonl, line 1: not JSON"),
        ("--trace trace.jsonl --policy best", "'best' is neither a policy (fair, "),
        ("--trace trace.jsonl --policy ,", "no policy is given"),
        ("--trace trace.jsonl --policy bad_policy:Any", "invalid syntax"),
        ("--trace trace.jsonl --policy no_tuple:Longest", "must return a tuple of numbers, not"),
        ("--trace trace.jsonl --server bad.jsonl", "bad.jsonl is not JSON"),
        ("--trace trace.jsonl --server few.json", "few.json: costs.row_context: Field required"),
        ("--trace trace.jsonl --server none.json", "steps that take no time never end"),
        ("--trace trace.jsonl --server below.json", "row is not a number of seconds"),
        ("--trace trace.jsonl --server slots.json", "slots is less than 1"),
        ("--trace trace.jsonl --server no_ratios.json", "slowdown is not of positive numbers"),
        ("--trace trace.jsonl --server stopped.json", "slowdown is not of positive numbers"),
        ("--trace trace.jsonl --config bad.jsonl", "bad.jsonl"),
        ("--trace trace.jsonl --json no/such.json", "no/such.json cannot be written"),
        ("--trace missing.jsonl --picture no/such.svg", "no/such.svg cannot be written"),
        ("--trace missing.jsonl --timeline .", ". cannot be written"),
        ("--example no/such.jsonl", "no/such.jsonl cannot be written"),
    ],
)
def test_failures_are_one_line(run: Run, arguments: str, message: str) -> None:
    Path("bad.jsonl").write_text("nonsense\n")
    Path("bad_policy.py").write_text("class\n")
    Path("no_tuple.py").write_text(
        "from llm_serving_engine.scheduler.policy import Policy\n"
        "class Longest(Policy):\n"
        "    def key(self, sequence, now):\n"
        "        return len(sequence.request.prompt)\n"
    )
    server = ReplaySettings().content()
    for name, part, change in (
        ("none", "costs", dict.fromkeys(DEFAULT_COSTS._fields, 0)),
        ("below", "costs", {"row": -1}),
        ("slots", "capabilities", {"slots": 0}),
        ("no_ratios", "slowdown", {"ratios": []}),
        ("stopped", "slowdown", {"ratios": [1, 0]}),
    ):
        changed = server | {part: server[part] | change}
        Path(f"{name}.json").write_text(json.dumps(changed))
    few = server | {"costs": {"row_group": 1, "row": 1}}
    Path("few.json").write_text(json.dumps(few))
    failed = run(*arguments.split())
    assert failed.exit_code == 1
    assert failed.stderr.startswith("error: ")
    assert message in failed.stderr
    assert failed.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    ["", "--trace a --example b", "--trace a --slots 0", "--trace a --slots 1025"],
)
def test_misuse_is_told_from_failure(run: Run, arguments: str) -> None:
    assert run(*arguments.split()).exit_code == 2


def test_a_timeline_tells_what_each_request_did_under_each_policy(run: Run) -> None:
    done = run(
        *("--trace", "trace.jsonl", "--policy", "fair,first_come", "--timeline", "timeline.json")
    )
    assert done.exit_code == 0
    content = json.loads(Path("timeline.json").read_text())
    assert content["format"] == FORMAT
    assert [one["name"] for one in content["runs"]] == ["fair", "first_come"]
    for one in content["runs"]:
        assert one["slots"] == 8
        assert one["target"] > 0
        assert one["steps"]
        ids = [int(request["id"]) for request in one["requests"]]
        assert sorted(ids) == list(range(len(read_trace(Path("trace.jsonl")))))
        for request in one["requests"]:
            times = [at for _, _, at, *_ in request["stages"]]
            assert times == sorted(times)
            assert request["stages"][-1][0] == "finished"
