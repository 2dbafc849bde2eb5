"""The options that several commands have."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

SERVER = "Server"
SAMPLING = "Sampling"

Address = Annotated[
    str, typer.Option(help="Where the server listens, HOST:PORT.", rich_help_panel=SERVER)
]
Tenant = Annotated[
    str | None,
    typer.Option(help="On whose behalf, where authentication is off.", rich_help_panel=SERVER),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Seconds an answer may take, the wait in the queue included. Default: no limit.",
        rich_help_panel=SERVER,
    ),
]
Attempts = Annotated[
    int,
    typer.Option(
        min=1, max=100, help="How often to try while the server is busy.", rich_help_panel=SERVER
    ),
]
Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="The text to continue; - reads it from stdin.")
]
Stream = Annotated[
    bool, typer.Option(help="Show the text as it is produced, or all of it at the end.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the whole answer as one line of JSON.")]
RequestId = Annotated[str | None, typer.Option(help="Your own id for the request.")]
CacheSalt = Annotated[str | None, typer.Option(help="Share cached prefixes only under this salt.")]
TopLogprobs = Annotated[
    int | None,
    typer.Option(min=0, max=20, help="With --json: log-probabilities, this many a token."),
]
IgnoreEos = Annotated[bool, typer.Option("--ignore-eos", help="Go on past the model's own end.")]
Model = Annotated[
    str | None, typer.Option(help="The model's name. Default: the server's default model.")
]
Priority = Annotated[
    Literal["low", "normal", "high", "critical"],
    typer.Option(help="Waiting requests of a higher class go first."),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens to produce at most. Default: the server's.")
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="A text that ends the output; may be given several times."),
]
StopTokenIds = Annotated[
    list[int] | None,
    typer.Option("--stop-token-id", min=0, help="A token that ends the output; as --stop."),
]
MinTokens = Annotated[int | None, typer.Option(min=0, help="Tokens to produce at least.")]
ParseSpecial = Annotated[
    bool, typer.Option("--parse-special", help='Read "<|im_start|>" and the like as tokens.')
]
TemplateArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg",
        metavar="NAME=VALUE",
        help="A variable for the chat template, such as enable_thinking=false.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0, max=100, help="0 is greedy.", rich_help_panel=SAMPLING),
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Keep the likeliest tokens that add up to this probability.",
        rich_help_panel=SAMPLING,
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Keep tokens at least this fraction as likely as the likeliest.",
        rich_help_panel=SAMPLING,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        min=0, help="Keep this many of the likeliest tokens; 0 is all.", rich_help_panel=SAMPLING
    ),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="Same seed, same draws.", rich_help_panel=SAMPLING)
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        min=0, max=10, help="Above 1: against tokens seen before.", rich_help_panel=SAMPLING
    ),
]
PresencePenalty = Annotated[
    float | None,
    typer.Option(min=-2, max=2, help="Against tokens produced before.", rich_help_panel=SAMPLING),
]
FrequencyPenalty = Annotated[
    float | None,
    typer.Option(
        min=-2, max=2, help="The same, each time they were produced.", rich_help_panel=SAMPLING
    ),
]
LogitBias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TOKEN=BIAS",
        help="Added to a token's logit, such as 42=-100; may be given several times.",
        rich_help_panel=SAMPLING,
    ),
]


def parse_logit_bias(entries: list[str] | None) -> dict[int, float] | None:
    """["42=-100"] is {42: -100.0}. Raises typer.BadParameter."""
    try:
        pairs = [entry.split("=", 1) for entry in entries or ()]
        return {int(token): float(bias) for token, bias in pairs} or None
    except ValueError:
        raise typer.BadParameter("an entry is TOKEN=BIAS, such as 42=-100") from None


def parse_template_arguments(entries: list[str] | None) -> dict[str, Any] | None:
    """["a=1", "b=x"] is {"a": 1, "b": "x"}: JSON, or else text. Raises typer.BadParameter."""
    arguments: dict[str, Any] = {}
    for entry in entries or ():
        name, equals, value = entry.partition("=")
        if not (name and equals):
            raise typer.BadParameter("an entry is NAME=VALUE, such as enable_thinking=false")
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments or None
