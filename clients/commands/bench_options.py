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
        help="Many clients at once; lengths of all kinds; many requests at one moment; prompts "
        "that begin alike; a long prompt among running streams; HIGH requests under an overload "
        "of LOW ones; more requests than can be answered, with deadlines; conversations that "
        "grow; whether answers are the same in company; two tenants of unequal greed."
    ),
]
Clients = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="Numbers of clients to compare. Default: 1,4,16 for steady, 16 for "
        "shared-prefix, 8 for churn, 64 for burst.",
    ),
]
PromptWords = Annotated[
    int, typer.Option(min=1, help="Words of a prompt; on average where they differ.")
]
MaxTokens = Annotated[
    int,
    typer.Option(
        min=1,
        help="Tokens of each answer, exactly; on average in churn, at most in determinism.",
    ),
]
Rounds = Annotated[
    int,
    typer.Option(
        min=1,
        help="How often measurements are made; with --against all of them, else those that "
        "are not a run of their own (priority, overload, determinism, fairness).",
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
        help="How long the load is kept up. Default: 30 for priority "
        "and overload, 20 for fairness.",
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
        help="fairness: how many times as many requests one tenant sends.",
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
        help="overload: requests a second. Default: twice what the server is measured to do.",
        rich_help_panel=SIZES,
    ),
]
Deadline = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Seconds after which an answer is of no use, and is left. Default: 10 for "
        "overload, none for the others.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of the prompts, and of all that is drawn.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the results to this file too.")
]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", help="Write a report with plots to this file.")
]
Address = Annotated[
    str,
    typer.Option(
        help="HOST:PORT for gRPC; http://HOST:PORT for llama-server or an OpenAI-style server, "
        "which is found out (llama+http:// and openai+http:// say it).",
        rich_help_panel=options.SERVER,
    ),
]
Against = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Another server, to be compared with round by round.",
        rich_help_panel=options.SERVER,
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
        raise typer.BadParameter(f"--clients: {text!r} is not numbers such as 1,4,16")
    return counts
