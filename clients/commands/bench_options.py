"""The options of `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

SIZES = "Sizes of single workloads"

Workload = Annotated[
    Literal[
        "throughput",
        "interference",
        "shared-prefix",
        "priority",
        "determinism",
        "fairness",
        "churn",
    ],
    typer.Option(
        help="Many clients at once; a long prompt among running streams; prompts that begin "
        "alike; HIGH requests under an overload of LOW ones; whether answers are the same in "
        "company; two tenants of unequal greed; lengths of all kinds."
    ),
]
Clients = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="Numbers of clients to compare. Default: 1,4,16 for throughput, 16 for "
        "shared-prefix, 8 for churn.",
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
    typer.Option(min=1, help="How often measurements are made that are not a run of their own."),
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
        help="How long the load is kept up. Default: 30 for priority, 20 for fairness.",
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
Seed = Annotated[int, typer.Option(help="Of the prompts, and of all that is drawn.")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="Write the results to this file too.")
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
