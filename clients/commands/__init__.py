"""The commands that talk to a running server.

Only typer is imported here; the rest is imported by the command that needs it,
so that `--help` answers at once.
"""

from __future__ import annotations

import typer

from llm_serving_engine.clients.commands.bench import bench
from llm_serving_engine.clients.commands.chat import chat
from llm_serving_engine.clients.commands.explain import explain
from llm_serving_engine.clients.commands.generate import generate
from llm_serving_engine.clients.commands.top import top


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command(epilog="Example: llm-serving-engine generate 'Once upon a time' --max-tokens 32")(
        generate
    )
    app.command(epilog="Example: llm-serving-engine chat --system 'Answer in one sentence.'")(chat)
    app.command(epilog="Example: llm-serving-engine bench --clients 1,4,16 --json bench.json")(
        bench
    )
    app.command(epilog="Example: llm-serving-engine top --interval 0.5")(top)
    app.command(epilog="Example: llm-serving-engine explain 0c6f2a9d41b7e385")(explain)
