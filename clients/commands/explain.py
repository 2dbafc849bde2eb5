"""`explain`: why a request waited, and what became of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llm_serving_engine.clients.commands import options
from llm_serving_engine.clients.commands.failures import one_line_failures

if TYPE_CHECKING:
    from llm_serving_engine.clients.explanations import Explanation


def explain(
    request_id: Annotated[
        str,
        typer.Argument(
            metavar="REQUEST_ID", help="The request's id, from its answer or the server's log."
        ),
    ],
    model: options.Model = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each explanation as one line of JSON.")
    ] = False,
    address: options.Address = "127.0.0.1:50051",
) -> None:
    """Explain a request: what it waited for, what took its slot, how long each part took.

    The server knows only its last requests (`explained_requests_max`).
    """
    with one_line_failures(address):
        from llm_serving_engine.clients import Client

        with Client(address) as client:
            found = client.explain(request_id, model=model or "")
        for one in found:
            typer.echo(_json(one) if as_json else _text(one))


def _text(one: Explanation) -> str:
    arrived = one.arrived.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    head = f"request {_printable(one.request_id)} of {arrived}, {_printable(one.model)}"
    return "\n".join((head, *(f"  {_printable(sentence)}" for sentence in one.sentences)))


def _json(one: Explanation) -> str:
    from dataclasses import asdict

    return json.dumps({**asdict(one), "arrived": one.arrived.isoformat()})


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
