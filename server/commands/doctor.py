"""`doctor`: whether this machine, this build, and this configuration can serve, and how well."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_serving_engine.clients.commands.options import check_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_serving_engine.server.config import ServerConfig
    from llm_serving_engine.server.doctor.finding import Finding

EXAMPLE = "Example: llm-serving-engine doctor --model builtin --json > report.json"


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command(epilog=EXAMPLE)(doctor)


def doctor(
    model: Annotated[
        str | None, typer.Option(help=r"A model's file, hf:OWNER/REPO\[/FILE], or builtin.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The configuration, in TOML.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Also check the server that runs there.",
            callback=check_address,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check the machine, the build, the model, the ports, and the configuration.

    Each line is ok, or says what to do. No model is loaded or downloaded.

    The exit code is 1 if there is a problem. A note is not a problem.
    """
    from llm_serving_engine.clients.commands.failures import failing_in_one_line
    from llm_serving_engine.server.commands.doctor_report import print_findings
    from llm_serving_engine.server.doctor.finding import Verdict

    with failing_in_one_line():
        findings = print_findings(_look(model, config, address), as_json)
    if any(finding.verdict is Verdict.PROBLEM for finding in findings):
        raise typer.Exit(1)


def _look(model: str | None, file: Path | None, address: str | None) -> Iterator[Finding]:
    from llm_serving_engine.server.config import ConfigError, load_config
    from llm_serving_engine.server.doctor.build import look_at_build
    from llm_serving_engine.server.doctor.configuration import invalid_configuration
    from llm_serving_engine.server.doctor.machine import look_at_machine
    from llm_serving_engine.server.doctor.served import look_at_server

    yield from look_at_machine()
    yield from look_at_build()
    try:
        config = load_config(file, {"model": {"reference": model}} if model else {})
    except ConfigError as error:
        yield from invalid_configuration(error, file)
    else:
        yield from _look_at_plan(config, file, served=address is not None)
    if address is not None:
        yield from look_at_server(address)


def _look_at_plan(config: ServerConfig, file: Path | None, *, served: bool) -> Iterator[Finding]:
    """Check the plan of a server with this configuration."""
    from llm_serving_engine.server.doctor.configuration import look_at_configuration
    from llm_serving_engine.server.doctor.model import look_at_model
    from llm_serving_engine.server.doctor.ports import look_at_ports

    yield from look_at_model(config, served=served)
    yield from look_at_ports(config, served)
    yield from look_at_configuration(config, file)
