"""What `top` shows."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from google.protobuf import json_format
from rich.console import Console

from llm_serving_engine.clients.operations_conversion import scheduler_state
from llm_serving_engine.clients.top import formatting
from llm_serving_engine.clients.top.history import History
from llm_serving_engine.clients.top.page import page
from llm_serving_engine.v1 import operations_pb2

BUSY: dict[str, Any] = {
    "model": "tiny",
    "time": "2030-01-02T03:04:05Z",
    "policy": "fair",
    "determinism": "batch_invariant",
    "queues": [
        {"priority": "PRIORITY_CRITICAL"},
        {"priority": "PRIORITY_HIGH", "requests": 1, "tokens": 250},
        {"priority": "PRIORITY_NORMAL", "requests": 12, "tokens": 2000},
        {"priority": "PRIORITY_LOW"},
    ],
    "tenants": [
        {
            "tenant": "acme",
            "queues": [
                {"priority": "PRIORITY_HIGH", "requests": 1, "tokens": 250},
                {"priority": "PRIORITY_NORMAL", "requests": 11, "tokens": 1750},
            ],
            "running": 2,
            "service": 0,
            "promptTokens": 900,
            "completionTokens": 12345,
        },
        {
            "queues": [{"priority": "PRIORITY_NORMAL", "requests": 1, "tokens": 250}],
            "running": 1,
            "service": 41.6,
            "completionTokens": 40,
        },
        {"tenant": "gone", "completionTokens": 3},
    ],
    "slots": [
        {
            "index": 0,
            "state": "SLOT_STATE_DECODE",
            "requestId": "r1",
            "priority": "PRIORITY_NORMAL",
            "tenant": "acme",
            "tokens": 140,
            "promptTokens": 100,
            "completionTokens": 40,
            "maxTokens": 64,
        },
        {
            "index": 1,
            "state": "SLOT_STATE_PREFILL",
            "requestId": "bad\u001b[2Jname",
            "priority": "PRIORITY_HIGH",
            "tenant": "a-tenant-with-a-long-name",
            "tokens": 25,
            "promptTokens": 100,
            "maxTokens": 64,
        },
        {
            "index": 2,
            "state": "SLOT_STATE_SHARING",
            "requestId": "r3",
            "priority": "PRIORITY_LOW",
            "promptTokens": 100,
            "maxTokens": 64,
            "sharingTokens": 96,
        },
        {"index": 3, "state": "SLOT_STATE_CACHED", "tenant": "acme", "tokens": 77},
        {"index": 4, "state": "SLOT_STATE_FREE"},
    ],
    "lastStep": {
        "number": 12,
        "decodeRows": 4,
        "decodeRuns": 2,
        "prefillTokens": 25,
        "prefillChunks": 1,
        "copies": 2,
        "saves": 1,
        "duration": "0.045s",
        "predicted": "0.0439s",
        "target": "0.2s",
    },
    "tokensPerSecond": 142.25,
    "prefillTokensPerSecond": 30,
    "outcomes": {"finished": 1203, "cancelled": 4, "refused": 2},
    "refusals": {"queue.requests": 2},
    "totals": {"preemptions": 3, "saves": 2, "moves": 5, "prefixHits": 33, "prefixTokens": 4321},
    "savedCacheBytes": 1536,
    "savedCacheBytesMax": 536870912,
    "latencies": [
        {
            "requests": 1000,
            "timeToFirstToken": {"p50": "0.0031s", "p95": "0.476s", "p99": "12.5s"},
            "timePerOutputToken": {"p50": "0.02s", "p95": "0.03s", "p99": "0.04s"},
        },
        {
            "priority": "PRIORITY_HIGH",
            "requests": 1,
            "timeToFirstToken": {"p50": "1s", "p95": "1s", "p99": "120s"},
        },
    ],
}

SHOWN = """\
tiny at host:1 · fair · batch_invariant                                                 03:04:05 UTC

tokens/s  142.2 produced · 30.0 of prompts
last step 45 ms of 200 ms (expected 44 ms): 4 rows in 2 runs, 25 prompt tokens in 1 chunk, 2 copies…
slots     DPSc·
          1 decode · 1 prefill · 1 sharing · 1 cached · 1 free
ended     1,203 finished · 4 cancelled · 2 refused
refused   2 queue.requests
caches    33 prefix hits, 4,321 tokens · 77 retained · saved 1.5 KiB of 512 MiB
moved     3 preempted, 2 of them saved · 5 moved to keep rows dense

class     waiting            tokens   done  first p50     p95     p99  per p50    p95    p99
critical        0                 0      0          -       -       -        -      -      -
high            1  █            250      1     1.00 s  1.00 s   120 s        -      -      -
normal         12  ████████   2,000      0          -       -       -        -      -      -
low             0                 0      0          -       -       -        -      -      -
all            13             2,250  1,000     3.1 ms  476 ms  12.5 s    20 ms  30 ms  40 ms

tenant    waiting            tokens  running  tokens/s  in all  ahead by
acme           12  ████████   2,000        2         -  12,345         0
(none)          1  █            250        1         -      40        42
gone            0                 0        0         -       3         -

 slot  state    tenant            class     tokens  done               request
    0  decode   acme              normal       140  ██████▎    40/64   r1
    1  prefill  a-tenant-with-a…  high          25  ██▌        25/100  bad�[2Jname
    2  sharing  (none)            low            0  copies 96          r3
    3  cached   acme                            77
    4  free
"""


def state(**changes):
    message = json_format.ParseDict({**BUSY, **changes}, operations_pb2.SchedulerState())
    return scheduler_state(message)


def shown(state, history=None, width=100, **arguments):
    sink = io.StringIO()
    console = Console(file=sink, width=width)
    console.print(page(state, history or History(), "host:1", width=width, **arguments))
    lines = [line.rstrip() for line in sink.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    return "\n".join(lines) + "\n"


def test_the_page():
    assert shown(state()) == SHOWN


def test_colours_tell_classes_and_states_apart():
    sink = io.StringIO()
    console = Console(file=sink, width=100, force_terminal=True, color_system="standard")
    console.print(page(state(), History(), "host:1", width=100))
    assert "\x1b[32mD\x1b[0m\x1b[33mP\x1b[0m\x1b[35mS\x1b[0m\x1b[34mc" in sink.getvalue()
    # Nothing of what callers name reaches the terminal as it is.
    assert "\x1b[2J" not in sink.getvalue()


def test_an_idle_server():
    idle = {"queues": BUSY["queues"][:1], "slots": BUSY["slots"][4:]}
    text = shown(scheduler_state(json_format.ParseDict(idle, operations_pb2.SchedulerState())))
    assert "last step none yet\n" in text
    assert "ended     nothing yet\n" in text
    assert "refused   none\n" in text
    assert "ahead by" not in text


def test_little_room():
    text = shown(state(), width=80, height=24)
    assert len(text.splitlines()) <= 24
    assert "slots     DPSc·\n" in text
    # Twelve characters of a tenant's name, sixteen of a request's.
    tall = shown(state(), width=80, height=29)
    assert re.search(r"^ +1 prefill a-tenant-wi… high +25 ██▌ +25/100 bad", tall, re.MULTILINE)
    assert len(tall.splitlines()) == 29
    assert "4 free" in tall


def test_more_tenants_and_slots_than_lines():
    tenants = [{"tenant": f"t{number}"} for number in range(20)]
    slots = [{"index": number, "state": "SLOT_STATE_FREE"} for number in range(30)]
    slots[7] = {**BUSY["slots"][0], "index": 7}
    slots[29] = {**BUSY["slots"][0], "index": 29}
    text = shown(state(tenants=tenants, slots=slots, tenantsOmitted=5), height=28)
    assert len(text.splitlines()) <= 28
    assert re.search(r"^t0 .*\n^t1 .*\nand 23 more\n", text, re.MULTILINE)
    # Free slots are left out first.
    assert re.search(r"^ +7  decode.*\n^ +29  decode", text, re.MULTILINE)
    everything = shown(state(tenants=tenants, slots=slots, tenantsOmitted=5))
    assert len(re.findall("^t[0-9]+ ", everything, re.MULTILINE)) == 20
    assert "and 5 more\n" in everything


def test_a_reading_that_is_old_says_so():
    assert shown(state(), problem="no\x1bbody").splitlines()[1] == "lost: no�body; trying again"


def test_rates_and_the_curve():
    history = History()
    for second in range(13):
        tenants = [{"tenant": "acme", "completionTokens": second**2}]
        stamp = f"2030-01-02T03:04:{second:02}Z"
        history.add(state(time=stamp, tenants=tenants, tokensPerSecond=second))
        newest = state(time=stamp, tenants=tenants)
    # Over the last 10 seconds, from 2² to 12².
    assert history.rate("acme") == 14
    assert history.rate("nobody") is None
    assert "tokens/s  142.2 produced · 30.0 of prompts  ▁▂▂▃▃▄▅▅▆▆▇▇█\n" in shown(newest, history)
    # The same reading again moves the curve and no rate.
    history.add(newest)
    assert history.rate("acme") == 14
    assert len(history.tokens_per_second) == 14
    history.forget()
    assert history.rate("acme") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00314, "3.1 ms"),
        (0.0451, "45 ms"),
        (0.9994, "999 ms"),
        (0.9999, "1.00 s"),
        (12.34, "12.3 s"),
        (99.99, "100 s"),
    ],
)
def test_times(value, text):
    assert formatting.seconds(value) == text


def test_amounts_of_memory():
    assert [formatting.memory(n) for n in (0, 1536, 512 * 2**20, 3 * 2**40)] == [
        "0 B",
        "1.5 KiB",
        "512 MiB",
        "3.07e+03 GiB",
    ]


def test_bars():
    assert [formatting.bar(n, 8, 2) for n in (0, 0.001, 1, 4, 7, 8, 99)] == [
        "",
        "▏",
        "▎",
        "█",
        "█▊",
        "██",
        "██",
    ]
    assert formatting.bar(1, 0, 2) == ""
