"""Two servers in turns, and the ratios of what they did."""

from __future__ import annotations

import pytest

from llm_serving_engine.clients.bench.compare import COLUMNS, compare, row
from llm_serving_engine.clients.bench.figures import COUNT, TIME, Figure, of_load
from llm_serving_engine.clients.bench.plan import Phase, PlannedRequest, with_deadline, with_nonce
from llm_serving_engine.clients.bench.record import Arrival, PhaseRecord, Record
from llm_serving_engine.clients.bench.run import WARM_UP_TOKENS, run
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.target import Ended, Output, ServerFacts
from llm_serving_engine.clients.bench.workloads import WORKLOADS, Workload


class Logging:
    """A target that writes down what it is asked for, into a list that several share."""

    salted = False

    def __init__(self, name, log):
        self.name = name
        self.log = log

    async def describe(self):
        return ServerFacts(self.name, "fake", "none")

    async def stream(self, request):
        if request.max_tokens != WARM_UP_TOKENS:
            self.log.append((self.name, request))
        yield Output(request.max_tokens, f"<{self.name}>")
        yield Ended(None, request.max_tokens)


async def asked(workload, settings, nonce=""):
    log: list[tuple[str, PlannedRequest]] = []
    targets = [Logging(name, log) for name in ("this", "other")]
    measured = await run(workload, settings, targets, lambda *told: None, nonce=nonce, settle=0)
    return log, measured


def phases(*values):
    return [PhaseRecord("p", (), cpu_seconds=value) for value in values]


def cpu(phase):
    return (Figure("cpu", TIME, phase.cpu_seconds or None), Figure("phases", COUNT, 1.0, True))


async def test_each_phase_goes_to_both_and_who_is_first_changes_with_the_round():
    log, measured = await asked(
        WORKLOADS["steady"], Settings(clients=(1, 2), rounds=3, max_tokens=3)
    )
    names = [name for name, _ in log]
    first, second = ["this", "other"], ["other", "this"]
    one = [first + ["this"] * 2 + ["other"] * 2, second + ["other"] * 2 + ["this"] * 2]
    assert names == one[0] + one[1] + one[0]
    assert [[phase.name for phase in server] for server in measured.records] == [
        ["1", "2", "1", "2", "1", "2"]
    ] * 2


@pytest.mark.parametrize("name", ["steady", "churn", "burst", "shared-prefix", "overload"])
async def test_both_get_the_same_requests(name):
    settings = Settings(
        rounds=2, clients=(2,), prompt_words=4, max_tokens=5, rate=300.0, seconds=0.02
    )
    log, _ = await asked(WORKLOADS[name], settings, "red green")
    this, other = ([one for side, one in log if side == name] for name in ("this", "other"))
    assert sorted(this, key=str) == sorted(other, key=str)
    assert all(request.prompt.startswith("red green ") for request in this)
    assert len({request.prompt for request in this}) == len(this)


async def test_a_plan_without_rounds_is_made_anew_for_each_round_of_a_comparison():
    settings = Settings(rounds=3, max_tokens=3, rate=50.0, seconds=0.02)
    log, measured = await asked(WORKLOADS["overload"], settings)
    assert [len(server) for server in measured.records] == [3, 3]
    mine = [request for name, request in log if name == "this"]
    assert len({request.prompt for request in mine}) == len(mine) >= 3
    alone = await run(
        WORKLOADS["overload"], settings, [Logging("this", [])], lambda *told: None, settle=0
    )
    assert [len(server) for server in alone.records] == [1]


async def test_a_conversation_goes_on_with_each_servers_own_answers():
    turns = (
        PlannedRequest("a", 1),
        PlannedRequest(" b", 1, continues=True),
        PlannedRequest(" c", 1, continues=True),
    )
    workload = Workload(lambda settings: (Phase("p", (turns,)),), WORKLOADS["steady"].report)
    log, _ = await asked(workload, Settings(), "red")
    assert [(name, request.prompt) for name, request in log] == [
        ("this", "red a"),
        ("this", "red a<this> b"),
        ("this", "red a<this> b<this> c"),
        ("other", "red a"),
        ("other", "red a<other> b"),
        ("other", "red a<other> b<other> c"),
    ]


def test_a_nonce_is_in_front_of_prompts_that_begin_something():
    plan = (Phase("p", ((PlannedRequest("a", 1), PlannedRequest("b", 1, continues=True)),)),)
    ((first, second),) = with_nonce(plan, "x y")[0].lanes
    assert (first.prompt, second.prompt) == ("x y a", "b")


def test_a_deadline_is_for_requests_that_have_none():
    plan = (Phase("p", ((PlannedRequest("a", 1), PlannedRequest("b", 1, deadline=3.0)),)),)
    assert [one.deadline for one in with_deadline(plan, 2.0)[0].lanes[0]] == [2.0, 3.0]


def test_ratios_are_of_pairs():
    slow, fast = compare(phases(2.0, 6.0, 1.0), phases(1.0, 2.0, 4.0), cpu)
    assert (slow.phase, slow.figure, slow.pairs) == (
        "p",
        "cpu",
        ((2.0, 1.0), (6.0, 2.0), (1.0, 4.0)),
    )
    assert (slow.ratios, slow.ratio) == ((2.0, 3.0, 0.25), 2.0)
    assert (slow.this, slow.other) == (2.0, 2.0)
    assert row(slow) == ("p", "cpu", "ms", "2000.0", "2000.0", "2.00", "0.25 .. 3.00", "3", "less")
    assert row(fast)[-1] == "more"
    assert len(row(slow)) == len(COLUMNS)


def test_a_round_in_which_one_has_no_figure_is_no_pair():
    slow, _ = compare(phases(2.0, 0.0), phases(1.0, 1.0), cpu)
    assert (slow.pairs, slow.missing, row(slow)[7]) == (((2.0, 1.0),), 1, "1 of 2")
    none, _ = compare(phases(0.0), phases(1.0), cpu)
    assert (none.ratio, none.this) == (None, None)
    assert row(none)[3:7] == ("-", "-", "-", "-")


def test_a_ratio_to_nothing_is_none():
    one = Figure("n", COUNT, 3.0), Figure("n", COUNT, 0.0)
    (found,) = compare(phases(1.0), phases(0.0), lambda phase: (one[not phase.cpu_seconds],))
    assert (found.pairs, found.ratios, found.ratio) == (((3.0, 0.0),), (), None)


def test_rounds_of_one_name_are_kept_apart_from_those_of_another():
    this = [PhaseRecord(name, (), value) for name, value in (("1", 1.0), ("4", 8.0), ("1", 3.0))]
    other = [PhaseRecord(name, (), 1.0) for name in ("1", "4", "1")]
    found = {one.phase: one.ratios for one in compare(this, other, cpu) if one.figure == "cpu"}
    assert found == {"1": (1.0, 3.0), "4": (8.0,)}


def test_the_figures_of_a_load():
    whole = Record("", 0.0, 2.0, (Arrival(0.5, 3), Arrival(2.0, 1)), finished=True, deadline=1.0)
    found = {one.name: one.value for one in of_load(PhaseRecord("p", (whole,)))}
    assert found["output"] == 2.0
    assert found["goodput"] == 0.0
    assert (found["TTFT p99"], found["gap max"], found["until all are done"]) == (0.5, 1.5, 2.0)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_figures_of_a_phase_in_which_all_failed(name):
    """Every workload says of it what it says of others, in names that pair."""
    labels = {"interference": ["running", "long"], "chat": ["1"]}.get(name, ["high"])
    failed = PhaseRecord("p", tuple(Record(one, 1.0, 2.0, (), "UNAVAILABLE") for one in labels))
    worked = PhaseRecord(
        "p",
        tuple(
            Record(one, 1.0, 3.0, (Arrival(2.0, 1), Arrival(3.0, 1)), finished=True)
            for one in labels
        ),
    )
    bad, good = WORKLOADS[name].figures(failed), WORKLOADS[name].figures(worked)
    assert [one.name for one in bad] == [one.name for one in good]
    assert any(one.value is None for one in bad)
