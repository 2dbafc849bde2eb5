"""The command line: what talks to a server, and what is one."""

from __future__ import annotations

# Before the imports that take time.
from llm_serving_engine.server.commands.stop_signals import end_when_told

end_when_told()

import typer  # noqa: E402

from llm_serving_engine.clients import commands as client_commands  # noqa: E402
from llm_serving_engine.server.commands import (  # noqa: E402
    doctor,
    models,
    serve,
    simulate,
    tune,
)

app = typer.Typer(
    name="llm-serving-engine",
    help="Serve local language models over gRPC: batched, scheduled, streamed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
serve.register(app)
client_commands.register(app)
models.register(app)
doctor.register(app)
simulate.register(app)
tune.register(app)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
