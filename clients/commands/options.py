"""The options that several commands have."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from llm_serving_engine.clients.channels import ADDRESS

PORT_MAX = 65535
SERVER = "Server"
SAMPLING = "Sampling"


def check_address(address: str | None) -> str | None:
    """The address, if gRPC can connect to it. Raises typer.BadParameter."""
    if address is None or address.startswith("unix"):
        return address
    host, _, port = address.rpartition(":")
    if not host or address.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{address!r} is not HOST:PORT, such as {ADDRESS}, for gRPC")
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= PORT_MAX):
        raise typer.BadParameter(f"the port of {address!r} is not a number from 1 to {PORT_MAX}")
    return address


def _above_zero(value: float | None) -> float | None:
    if value is not None and not value > 0:
        raise typer.BadParameter("must be above 0")
    return value


def check_target(address: str | None) -> str | None:
    """The same check, but a URL passes: it says what kind of server is there."""
    return address if address is None or "://" in address else check_address(address)


Address = Annotated[
    str,
    typer.Option(
        help="Where the server listens, HOST:PORT.",
        rich_help_panel=SERVER,
        callback=check_address,
    ),
]
Tenant = Annotated[
    str | None,
    typer.Option(help="The tenant that the request counts for.", rich_help_panel=SERVER),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Deadline of a request in seconds, its wait in the queue included. Default: none.",
        rich_help_panel=SERVER,
    ),
]
Attempts = Annotated[
    int,
    typer.Option(
        min=1,
        max=100,
        help="Tries of a request that a busy server refuses.",
        rich_help_panel=SERVER,
    ),
]
Prompt = Annotated[
    str, typer.Argument(metavar="PROMPT", help="The text to continue; - reads stdin.")
]
Stream = Annotated[
    bool, typer.Option(help="Print the text while it is produced, or all at the end.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the whole answer as one line of JSON.")]
RequestId = Annotated[str | None, typer.Option(help="Your own id for the request.")]
CacheSalt = Annotated[
    str | None, typer.Option(help="Share cached prefixes only with requests of the same salt.")
]
TopLogprobs = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=20,
        help="With --json: log-probabilities of each token, with this many alternatives.",
    ),
]
IgnoreEos = Annotated[
    bool, typer.Option("--ignore-eos", help="Continue after the model's end-of-generation tokens.")
]
Model = Annotated[
    str | None, typer.Option(help="The model's name. Default: the server's default model.")
]
Priority = Annotated[
    Literal["low", "normal", "high", "critical"],
    typer.Option(help="Class of the request: higher classes leave the queue first."),
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="The most tokens to produce. Default: the server's.")
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="A text that ends the output; can be repeated."),
]
StopTokenIds = Annotated[
    list[int] | None,
    typer.Option(
        "--stop-token-id", min=0, help="A token id that ends the output; can be repeated."
    ),
]
MinTokens = Annotated[int | None, typer.Option(min=0, help="The fewest tokens to produce.")]
ParseSpecial = Annotated[
    bool,
    typer.Option(
        "--parse-special",
        help='Names of control tokens in PROMPT, such as "<|im_start|>", are tokens.',
    ),
]
TemplateArguments = Annotated[
    list[str] | None,
    typer.Option(
        "--template-arg",
        metavar="NAME=VALUE",
        help="A variable of the chat template, such as enable_thinking=false.",
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=100,
        help="Divides the logits; 0 always takes the likeliest token.",
        rich_help_panel=SAMPLING,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        max=1,
        callback=_above_zero,
        help="Keep the likeliest tokens whose probabilities add up to this, above 0; 1 keeps all.",
        rich_help_panel=SAMPLING,
    ),
]
MinP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Keep tokens with at least this fraction of the likeliest one's probability.",
        rich_help_panel=SAMPLING,
    ),
]
TopK = Annotated[
    int | None,
    typer.Option(
        min=0, help="Keep this many of the likeliest tokens; 0 keeps all.", rich_help_panel=SAMPLING
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0, help="The same seed draws the same random numbers.", rich_help_panel=SAMPLING
    ),
]
RepetitionPenalty = Annotated[
    float | None,
    typer.Option(
        max=10,
        callback=_above_zero,
        help="Above 0; above 1, it makes tokens of prompt and output less likely.",
        rich_help_panel=SAMPLING,
    ),
]
PresencePenalty = Annotated[
    float | None,
    typer.Option(
        min=-2,
        max=2,
        help="Above 0: makes tokens of the output less likely.",
        rich_help_panel=SAMPLING,
    ),
]
FrequencyPenalty = Annotated[
    float | None,
    typer.Option(min=-2, max=2, help="The same, for each occurrence.", rich_help_panel=SAMPLING),
]
LogitBias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TOKEN=BIAS",
        help="A number to add to a token's logit, such as 42=-100; can be repeated.",
        rich_help_panel=SAMPLING,
    ),
]


def parse_logit_bias(entries: list[str] | None) -> dict[int, float] | None:
    """["42=-100"] is {42: -100.0}. Raises typer.BadParameter."""
    try:
        pairs = [entry.split("=", 1) for entry in entries or ()]
        return {int(token): float(bias) for token, bias in pairs} or None
    except ValueError:
        raise typer.BadParameter(
            "an entry is TOKEN=BIAS, such as 42=-100", param_hint="'--logit-bias'"
        ) from None


def parse_template_arguments(entries: list[str] | None) -> dict[str, Any] | None:
    """["a=1", "b=x"] is {"a": 1, "b": "x"}: JSON, or else text. Raises typer.BadParameter."""
    arguments: dict[str, Any] = {}
    for entry in entries or ():
        name, equals, value = entry.partition("=")
        if not (name and equals):
            raise typer.BadParameter(
                "an entry is NAME=VALUE, such as enable_thinking=false",
                param_hint="'--template-arg'",
            )
        try:
            arguments[name] = json.loads(value)
        except ValueError:
            arguments[name] = value
    return arguments or None
