"""The options of `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from llm_serving_engine.clients.commands import options

SIZES = "Sizes of single workloads"

Workload = Annotated[
    Literal[
        "steady",
        "churn",
        "burst",
        "shared-prefix",
        "interference",
        "priority",
        "overload",
        "chat",
        "determinism",
        "fairness",
    ],
    typer.Option(
        help="steady: concurrent clients. churn: clients that come and go, lengths vary. burst: "
        "simultaneous requests. shared-prefix: users with a common prefix. interference: a long "
        "prompt beside streams. priority: HIGH requests under an overload of LOW ones. overload: "
        "too many requests, with deadlines. chat: growing conversations. determinism: the same "
        "tokens alone and concurrently. fairness: two tenants, one with more requests."
    ),
]
Clients = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="Numbers of concurrent clients, compared in turns. Default: 1,4,16 for steady, 16 "
        "for shared-prefix, 8 for churn, 64 for burst.",
    ),
]
PromptWords = Annotated[
    int, typer.Option(min=1, help="Words of a prompt; if lengths vary, the mean.")
]
MaxTokens = Annotated[
    int,
    typer.Option(
        min=1,
        help="Tokens of each answer, exactly; the mean in churn, the maximum in determinism.",
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        min=1,
        help="Repetitions of each measurement. Without --against, priority, overload, "
        "determinism, and fairness run once.",
    ),
]
Streams = Annotated[
    int, typer.Option(min=1, help="interference: running streams.", rich_help_panel=SIZES)
]
LongWords = Annotated[
    int, typer.Option(min=1, help="interference: words of the long prompt.", rich_help_panel=SIZES)
]
PrefixWords = Annotated[
    int,
    typer.Option(min=1, help="shared-prefix: words of the prefix.", rich_help_panel=SIZES),
]
IdleRequests = Annotated[
    int,
    typer.Option(min=1, help="priority: requests to the idle server.", rich_help_panel=SIZES),
]
Seconds = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=3600,
        help="Duration of the load. Default: 30 for priority and overload, 20 for fairness.",
        rich_help_panel=SIZES,
    ),
]
Requests = Annotated[
    int,
    typer.Option(
        min=1, max=10_000, help="determinism: requests to compare.", rich_help_panel=SIZES
    ),
]
Ratio = Annotated[
    int,
    typer.Option(
        min=1,
        max=100,
        help="fairness: how many times as many requests the greedy tenant sends.",
        rich_help_panel=SIZES,
    ),
]
Conversations = Annotated[
    int, typer.Option(min=1, help="chat: conversations at once.", rich_help_panel=SIZES)
]
Turns = Annotated[int, typer.Option(min=1, help="chat: turns of each.", rich_help_panel=SIZES)]
Rate = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=10_000,
        help="overload: requests per second. Default: twice the server's measured rate.",
        rich_help_panel=SIZES,
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Deadline of each request, in seconds. Default: 10 for overload, none for the others.",
    ),
]
Seed = Annotated[
    int, typer.Option(help="Seed of the prompts and of everything else that is random.")
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Also write the results to this file.")
]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", help="Write a report with plots to this file.")
]
Address = Annotated[
    str,
    typer.Option(
        help="HOST:PORT for gRPC; http://HOST:PORT for llama-server or an OpenAI-style server, "
        "whichever answers (llama+http:// or openai+http:// to name one).",
        rich_help_panel=options.SERVER,
        callback=options.check_target,
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Another server to compare with, in alternating rounds.",
        rich_help_panel=options.SERVER,
        callback=options.check_target,
    ),
]


def parse_clients(text: str | None) -> tuple[int, ...]:
    """Make (1, 4) of "1,4", and () of None. Raises typer.BadParameter."""
    if text is None:
        return ()
    try:
        counts = tuple(int(word) for word in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise typer.BadParameter(f"--clients: {text!r} is not a list of numbers, such as 1,4,16")
    return counts
