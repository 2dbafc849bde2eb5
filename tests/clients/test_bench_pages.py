"""The HTML report, what it is drawn from, and the facts of a run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from llm_serving_engine.clients.bench.compare import Comparison
from llm_serving_engine.clients.bench.facts import Machine, RunFacts, machine, run_facts
from llm_serving_engine.clients.bench.html import plots
from llm_serving_engine.clients.bench.html.axis import Axis, by_ratios, from_zero, number
from llm_serving_engine.clients.bench.html.chart import INNER_HEIGHT, INNER_WIDTH, draw
from llm_serving_engine.clients.bench.html.page import page
from llm_serving_engine.clients.bench.html.ratios import draw_ratios
from llm_serving_engine.clients.bench.outcome import described, outcome
from llm_serving_engine.clients.bench.record import Arrival, PhaseRecord, Record
from llm_serving_engine.clients.bench.run import Measured
from llm_serving_engine.clients.bench.settings import Settings
from llm_serving_engine.clients.bench.target import ServerFacts
from llm_serving_engine.clients.bench.workloads import WORKLOADS

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta", "link", "br", "hr", "img", "input"}
DETAILS = {"parameters": 134_515_008}
SERVERS = (
    ServerFacts("127.0.0.1:1", "ours", "gRPC", model="tiny", weights="Q4_0", slots=4, context=64),
    ServerFacts(
        "http://127.0.0.1:2", "<theirs>", "HTTP", "b7", details={"parameters": 134_515_008}
    ),
)
RUN = RunFacts(
    "2030-01-02 03:04 UTC",
    "lse bench --rounds 2",
    {"grpcio": "1.2.3"},
    Machine("A & B", 2, 2**31, "Linux", "3.10.1", "performance", 0.5),
    nonce="red green",
)


def record(sent, *times, **values):
    arrivals = tuple(Arrival(time, 1) for time in times)
    return Record("", sent, times[-1] if times else sent, arrivals, finished=True, **values)


def rounds(pace):
    """Two rounds of two numbers of clients."""
    return tuple(
        PhaseRecord(name, (record(10.0, *(10.0 + pace * (i + 1 + turn) for i in range(5))),))
        for turn in range(2)
        for name in ("1", "4")
    )


def found(servers=SERVERS, workload="steady"):
    records = (rounds(0.1), rounds(0.2))[: len(servers)]
    return outcome(
        workload, WORKLOADS[workload], Measured(Settings(rate=2.5), records), servers, RUN
    )


class Checker(HTMLParser):
    """Elements that are closed, and what a browser would fetch."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.fetched = []
        self.words = []

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.fetched += [(tag, key) for key, _ in attributes if key in ("src", "href", "data")]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def checked(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


def pictures(text):
    return [ElementTree.fromstring(one) for one in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_a_page_needs_nothing_from_elsewhere():
    text = page(found())
    checker = checked(text)
    assert checker.fetched == []
    assert "@import" not in text
    assert "url(" not in text
    assert "<script" not in text


def test_a_page_has_pictures_of_each_phase_and_of_the_ratios():
    shown = pictures(page(found()))
    labels = [one.get("aria-label") for one in shown]
    each = ["Time to first token", "Gap between tokens", "Output, tokens a second"]
    assert labels == ["Ratios of this server's figures by the other's", *each, *each]
    lines = [len(one.findall(f".//{SVG}polyline")) for one in shown[1:]]
    assert lines == [2] * 6
    alone = pictures(page(found(SERVERS[:1])))
    assert [len(one.findall(f".//{SVG}polyline")) for one in alone] == [1] * 6


def test_a_page_tells_what_was_run_on_what():
    words = " ".join(" ".join(checked(page(found())).words).split())
    for said in (
        "lse bench --rounds 2",
        "2030-01-02 03:04 UTC",
        "A & B, 2 cores",
        "performance",
        "1.2.3",
        "red green",
        "<theirs> b7",
        "134,515,008",
        "Q4_0",
        "4 slots of 64 tokens",
        "(other server)",
    ):
        assert said in words, said


def test_a_page_of_one_server_compares_nothing():
    words = " ".join(checked(page(found(SERVERS[:1]))).words)
    assert "other server" not in words
    assert "round by round" not in words


def test_a_page_of_a_run_in_which_nothing_came():
    nothing = (PhaseRecord("1", (Record("", 1.0, 2.0, (), "UNAVAILABLE"),)),)
    measured = Measured(Settings(), (nothing, nothing))
    failed = outcome("steady", WORKLOADS["steady"], measured, SERVERS, RUN)
    assert "requests failed: 2 UNAVAILABLE" in " ".join(checked(page(failed)).words)
    assert failed.failure == "requests failed: 2 UNAVAILABLE"


def test_json_has_both_servers_and_every_pair():
    told = json.loads(json.dumps(found().json()))
    assert told["workload"] == "steady"
    assert told["server"]["model"] == "tiny"
    assert told["against"]["server"]["details"] == DETAILS
    assert [one["clients"] for one in told["results"]] == [1, 4]
    assert [one["phase"] for one in told["against"]["load"]] == [1, 4]
    assert told["run"]["machine"]["cpu"] == "A & B"
    first = told["comparison"][0]
    assert (first["phase"], first["figure"]) == ("1", "output")
    assert first["ratios"] == pytest.approx([2.0, 2.0])
    assert len(first["pairs"]) == 2
    alone = found(SERVERS[:1]).json()
    assert (alone["against"], alone["comparison"]) == (None, [])


def test_the_same_table_is_not_shown_twice():
    assert [one.title for one in found().servers[0].reports] == ["Clients that stream at once"]


def test_a_server_in_one_line():
    assert described(SERVERS[0]) == "ours at 127.0.0.1:1: tiny, Q4_0, 4 slots of 64 tokens"
    without_slots = replace(SERVERS[0], slots=None)
    assert described(without_slots) == "ours at 127.0.0.1:1: tiny, Q4_0, slots of 64 tokens"
    assert described(SERVERS[1]) == "<theirs> b7 at http://127.0.0.1:2"


def test_the_facts_of_this_machine():
    told = machine()
    assert told.cpu
    assert told.cores >= 1
    assert told.memory_bytes is None or told.memory_bytes > 2**20
    assert re.match(r"3\.\d+\.\d+", told.python)


def test_the_facts_of_a_run():
    told = run_facts(["/somewhere/bin/lse", "bench", "--json", "a b.json"], "red")
    assert told.command == "lse bench --json 'a b.json'"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", told.date)
    assert {"llm-serving-engine", "grpcio"} <= set(told.versions)
    assert told.machine.cpu in told.line


def test_a_distribution_is_of_milliseconds_and_ends_at_all():
    chart = plots.distribution("t", [[0.002, 0.001], []], ["a", "b"])
    assert [series.points for series in chart.series] == [((1.0, 0.5), (2.0, 1.0)), ()]
    assert len(ElementTree.fromstring(draw(chart)).findall(f".//{SVG}polyline")) == 1


def test_a_long_distribution_is_thinned_with_its_ends_kept():
    values = [float(i + 1) for i in range(10_001)]
    ((series,),) = [plots.distribution("t", [values], ["a"]).series]
    assert len(series.points) <= plots.POINTS_MAX + 1
    assert series.points[0][0] == 1000.0
    assert series.points[-1] == (10_001_000.0, 1.0)


def test_output_over_time_is_the_mean_of_the_rounds():
    one = PhaseRecord("1", (record(100.0, 100.05, 100.15, 106.0),))
    other = PhaseRecord("1", (record(50.0, 50.02, 50.04),))
    (series,) = plots.over_time([(one, other)], ["a"]).series
    # The bins are 0.1 s wide: three tokens in the first, one in the second, over two rounds.
    assert series.points[0] == pytest.approx((0.05, 15.0))
    assert series.points[1] == pytest.approx((0.15, 5.0))
    area = sum(rate for _, rate in series.points) * 0.1
    assert area * 2 == pytest.approx(5)


def test_ratios_are_placed_and_told_apart():
    less = Comparison("1", "TTFT", "s", False, ((1.0, 2.0), (3.0, 2.0)))
    more = Comparison("1", "output", "tokens/s", True, ((4.0, 2.0),))
    none = Comparison("1", "refusal", "s", False, ())
    root = ElementTree.fromstring(draw_ratios([less, more, none]))
    dots = root.findall(f".//{SVG}circle")
    assert [dot.get("class") for dot in dots] == ["dot better", "dot worse", "dot better"]
    places = [float(dot.attrib["cx"]) for dot in dots]
    assert places[0] < places[1] < places[2]
    labels = [one.text for one in root.iter(f"{SVG}text")]
    assert {"1: TTFT", "1: output"} <= set(labels)
    assert "1: refusal" not in labels


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0.0, 10.0, 100), [0, 2, 4, 6, 8, 10]),
        (Axis(0.0, 1.0, 100), [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (Axis(0.0, 130.0, 100), [0, 50, 100]),
        (Axis(1.0, 1000.0, 100, log=True), [1, 10, 100, 1000]),
        (Axis(0.9, 1.3, 100, log=True), [1, 1.2]),
        (Axis(1e-3, 1e6, 100, log=True), [0.001, 0.1, 10, 1000, 100_000]),
    ],
)
def test_ticks_are_round_and_few(axis, ticks):
    assert axis.ticks() == pytest.approx(ticks)


def test_an_axis_places_its_ends_and_what_is_beyond_them():
    log = Axis(1.0, 100.0, 50.0, log=True)
    assert [log.place(value) for value in (0.0, 1.0, 10.0, 100.0, 1e9)] == [0, 0, 25, 50, 50]
    linear = Axis(0.0, 4.0, 100.0)
    assert [linear.place(value) for value in (-1, 0, 1, 4, 9)] == [0, 0, 25, 100, 100]


def test_axes_of_no_values():
    assert from_zero([], INNER_HEIGHT).ticks()[0] == 0
    assert by_ratios([0.0], INNER_WIDTH).low < 1 < by_ratios([], INNER_WIDTH).high


def test_numbers_are_short():
    assert [number(value) for value in (0.05, 12.0, 3000.0, 2e6)] == [
        "0.05",
        "12",
        "3,000",
        "2,000,000",
    ]


def test_the_plots_of_a_page_are_pictures_of_their_own(tmp_path):
    report = tmp_path / "steady.html"
    report.write_text(page(found()))
    script = Path(__file__).parents[2] / "deploy" / "plots.py"
    subprocess.run([sys.executable, str(script), str(report), str(tmp_path / "plots")], check=True)
    pictures = {path.stem: ElementTree.parse(path) for path in (tmp_path / "plots").iterdir()}
    assert {"steady-ratios", "steady-1-gap-between-tokens", "steady-4-output"} <= pictures.keys()
    assert all(picture.getroot()[0].tag == f"{SVG}style" for picture in pictures.values())
