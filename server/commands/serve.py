"""`serve`: run the server until it is told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from llm_serving_engine.scheduler.durations import duration
from llm_serving_engine.server.addresses import PORT_MAX
from llm_serving_engine.server.commands.standard_streams import tell

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Coroutine

    from llm_serving_engine.backends.backend import LoadReport
    from llm_serving_engine.scheduler.core import Scheduler
    from llm_serving_engine.server.app import App
    from llm_serving_engine.server.config import ServerConfig

# What a second signal leaves for telling callers that their requests have ended.
HURRY_SECONDS = 1.0
EXAMPLE = "Example: llm-serving-engine serve --model hf:OWNER/REPO/FILE.gguf --port 50052"
# Of collections of the middle generation, one after which all is looked through.
FULL_COLLECTION_EVERY = 1000
# EX_SOFTWARE of sysexits.h: a bug, and not the operator's doing.
GIVEN_UP_CODE = 70

GrpcPort = Annotated[
    int | None,
    typer.Option("--port", min=0, max=PORT_MAX, help="Port for gRPC; 0: any free one."),
]
HttpPort = Annotated[
    int | None,
    typer.Option("--http-port", min=0, max=PORT_MAX, help="Port for HTTP; 0: any free one."),
]


class GivenUp(Exception):
    """The server cannot serve any more; the message says why in one line."""


def register(app: typer.Typer) -> None:
    """Add the command to an application."""
    app.command(epilog=EXAMPLE)(serve)


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            help=r"A GGUF file, hf:OWNER/REPO\[/FILE], hf:OWNER/REPO:QUANT, https://..., builtin."
        ),
    ] = None,
    chat_template: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A Jinja chat template that replaces the model's own."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The configuration, in TOML.")] = None,
    host: Annotated[str | None, typer.Option(help="Address of both listeners.")] = None,
    port: GrpcPort = None,
    http_port: HttpPort = None,
    backend: Annotated[
        str | None,
        typer.Option(help="The backend: llama.cpp, ctransformers, scripted, module:Class."),
    ] = None,
) -> None:
    """Serve a model over gRPC and HTTP. Ctrl-C or SIGTERM drains, a second one ends it at once.

    Exit codes: 0 all requests ended; 1 it cannot serve; 2 a wrong flag;
    70 its engine failed; 129, 130, 143 ended by a signal before it served, or twice.
    """
    import os

    import uvloop

    # gRPC's library writes to stderr what is said here in better words, or in the log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from llm_serving_engine.backends.backend import LoadError
    from llm_serving_engine.backends.models.errors import ModelError
    from llm_serving_engine.server.config import ConfigError, load_config
    from llm_serving_engine.server.open_files import allow_connections
    from llm_serving_engine.server.telemetry import logs

    flags = _flags(
        {
            "model": {"reference": model, "backend": backend, "chat_template": chat_template},
            "grpc": {"host": host, "port": port},
            "http": {"host": host, "port": http_port},
        }
    )
    try:
        settings = load_config(config, flags)
        logs.configure(settings.log.format, settings.log.level)
        allow_connections(settings.grpc.connections_max + settings.http.connections_max)
        # Before the event loop: a download is interrupted like any other command.
        name, path = _find_model(settings)
        code = uvloop.run(_run(settings, name, path))
    except (ConfigError, LoadError, ModelError, ValueError) as error:
        _fail(str(error))
    except GivenUp as error:
        _fail(str(error), GIVEN_UP_CODE)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if code:
        raise typer.Exit(code)


async def _run(config: ServerConfig, name: str, path: Path) -> int:
    """Serve until a stop signal; return the exit code."""
    from llm_serving_engine.server.commands.stop_signals import StopSignals

    # Before the other imports, which take half a second: asyncio's own handler of Ctrl-C would
    # end this in the middle of the start.
    signals = StopSignals()

    import asyncio
    import os
    from functools import partial

    from llm_serving_engine.server.allocator import bound_free_memory
    from llm_serving_engine.server.app import App
    from llm_serving_engine.server.load_retries import load_with_retries
    from llm_serving_engine.server.model import ServedModel

    bound_free_memory()
    app = App(config, ServedModel(name, path, config))
    await app.start()
    loading = asyncio.create_task(load_with_retries(app, partial(_complain, app)))
    try:
        await _first_of(loading, signals.told.wait())
        if loading.done():
            report = loading.result()
            _bound_collections()
            _announce(app, report)
            await _first_of(app.given_up, signals.told.wait())
            if app.given_up.done():
                raise GivenUp(app.given_up.result())
            tell(_stopping(config))
    finally:
        loading.cancel()
        stopping = asyncio.create_task(app.stop())
        await _first_of(stopping, signals.again.wait())
        if not stopping.done():
            await app.hurry()
            await asyncio.wait({stopping}, timeout=HURRY_SECONDS)
        if not stopping.done():
            # Runners end by themselves when their server has gone.
            os._exit(signals.exit_code)
        await stopping
    return signals.exit_code


def _bound_collections() -> None:
    """Keep the pauses of the garbage collector short."""
    import gc

    # All present objects stay. Without this, each full collection would scan the modules
    # and the vocabulary again, which takes tens of milliseconds.
    gc.collect()
    gc.freeze()
    # A full collection looks through all that open requests hold: 4,000 of them take
    # 190 ms. There is next to nothing for it to find, so it comes a hundred times less often.
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, FULL_COLLECTION_EVERY)


def _stopping(config: ServerConfig) -> str:
    notice = ""
    if config.drain_notice_seconds:
        notice = f"requests are accepted for {duration(config.drain_notice_seconds)} more, then "
    return f"stopping: {notice}running requests may finish"


async def _first_of(task: asyncio.Future[Any], other: Coroutine[Any, Any, Any]) -> None:
    """Wait until either is done; the other one goes on."""
    import asyncio

    waiting = asyncio.create_task(other)
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def _find_model(config: ServerConfig) -> tuple[str, Path]:
    """Return the model's name and file; download it from a hub if needed. Raises ModelError."""
    from llm_serving_engine.backends import registry
    from llm_serving_engine.backends.models.reference import parse_reference
    from llm_serving_engine.backends.models.resolve import resolve

    if config.model.backend == registry.SCRIPTED:
        return config.model.name or "scripted", Path()
    reference = parse_reference(config.model.reference)
    return config.model.name or reference.name, resolve(reference, progress=True, explain=tell)


def _announce(app: App, report: LoadReport) -> None:
    memory = report.memory_bytes
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    if settings:
        tell(f"{app.model.name} on {app.model.backend}: {settings}")
    for note in report.notes:
        tell(f"note: {note}")
    tell(_step_target(app.model.engine.scheduler))
    if memory:
        parts = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in memory.items())
        estimated = ""
        if report.estimated_bytes:
            estimated = f"; {report.estimated_bytes / 1e6:.0f} MB were estimated"
        tell(f"memory of the runner: {sum(memory.values()) / 1e6:.0f} MB ({parts}){estimated}")
    for address in app.http_addresses:
        tell(f"metrics and health on {address if address.path else f'http://{address}'}")
    if reachable := [address for address in app.http_addresses if not address.path]:
        tell(f"chat, scheduler, and model in a browser: http://{reachable[0]}/")
    first, *others = app.grpc_addresses
    for address in others:
        tell(f"listening on {address}")
    tell(f"listening on {first}; try:")
    tell(
        'grpcurl -plaintext -d \'{"prompt":"Once upon a time","max_tokens":32}\' '
        f"{first} llm_serving_engine.v1.InferenceService/Stream"
    )


def _step_target(scheduler: Scheduler) -> str:
    """The step target, and how long prompts delay streams: no less than the least step takes."""
    can, cost, target = scheduler.capabilities, scheduler.cost, scheduler.step_target
    configured = scheduler.config.step_target_seconds is not None
    origin = "as configured" if configured else "from the costs of calls"
    rows = cost.rows_seconds(max(can.slots // 2, 1))
    least = rows + cost.chunk_seconds(can.chunk_min, 0)
    delay = "at most twice that"
    if least > 2 * target:
        delay = f"about {duration(least)}, which rows and the shortest chunk take"
    return f"step target: {duration(target)}, {origin}; prompts delay streams for {delay}"


def _complain(app: App, reason: str) -> None:
    tell(f"error: {reason}", err=True)
    tell(
        f"listening on {app.grpc_addresses[0]} without a model: requests are "
        "answered UNAVAILABLE; loading is retried"
    )


def _flags(tree: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The flags that were given."""
    given = {
        part: {name: value for name, value in values.items() if value is not None}
        for part, values in tree.items()
    }
    return {part: values for part, values in given.items() if values}


def _fail(message: str, code: int = 1) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(code)
