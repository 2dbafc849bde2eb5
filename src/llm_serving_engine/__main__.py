"""The command line: what talks to a server, and what is one."""

from __future__ import annotations

# Before the imports that take time.
from llm_serving_engine.server.commands.stop_signals import end_when_told

end_when_told()

from llm_serving_engine.server.commands.standard_streams import (  # noqa: E402
    open_standard_streams,
)

open_standard_streams()

import sys  # noqa: E402
from importlib import metadata  # noqa: E402
from typing import Annotated, Any  # noqa: E402

import typer  # noqa: E402

from llm_serving_engine.clients import commands as client_commands  # noqa: E402
from llm_serving_engine.server.commands import (  # noqa: E402
    doctor,
    models,
    serve,
    simulate,
    tune,
)
from llm_serving_engine.server.validation_message import plain_message  # noqa: E402

NAME = "llm-serving-engine"

app = typer.Typer(name=NAME, no_args_is_help=True, pretty_exceptions_enable=False)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{NAME} {metadata.version(NAME)}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Serve local language models over gRPC and HTTP: batched, scheduled, streamed."""


serve.register(app)
client_commands.register(app)
models.register(app)
doctor.register(app)
simulate.register(app)
tune.register(app)


def main() -> None:
    """Run the command line. A command that is not understood is one line on stderr."""
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = _fail("aborted")
    except Exception as error:
        # The type of what it cannot understand is typer's secret.
        if not hasattr(error, "format_message"):
            raise
        code = _not_understood(error)
    sys.exit(code)


def _not_understood(error: Any) -> int:
    """Say what is wrong with a command, and where its help is. Returns the exit code."""
    # There is none where the help was shown instead, as of a command without arguments.
    words = plain_message(error.format_message()).split()
    if message := " ".join(words).rstrip("."):
        context = getattr(error, "ctx", None)
        _fail(f"{message}; see {context.command_path} --help" if context else message)
    return int(error.exit_code)


def _fail(message: str) -> int:
    typer.echo(f"error: {message}", err=True)
    return 1


if __name__ == "__main__":
    main()
