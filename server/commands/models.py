"""`models`: the model files on this machine, and the models of a server."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llm_serving_engine.clients.commands.options import check_address

if TYPE_CHECKING:
    from llm_serving_engine.backends.models.reference import HubModel, UrlModel

# Help is rich's markup: a bracket that is meant is escaped.
_REFERENCE_HELP = (
    r"builtin, a path to a GGUF file, hf:OWNER/REPO\[/FILE], hf:OWNER/REPO:QUANT, or https://..."
)
_HUB_HELP = r"hf:OWNER/REPO\[/FILE], hf:OWNER/REPO:QUANT, or https://..."
_LIST_TIMEOUT_SECONDS = 10.0

Reference = Annotated[str, typer.Argument(metavar="MODEL", help=_REFERENCE_HELP)]
HubReference = Annotated[str, typer.Argument(metavar="MODEL", help=_HUB_HELP)]

models = typer.Typer(
    name="models",
    help="List, download, remove, and convert models.",
    epilog="Example: llm-serving-engine models pull hf:OWNER/REPO",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.add_typer(models)


@models.command("list", epilog="Example: llm-serving-engine models list --address 127.0.0.1:50051")
def list_models(
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="List the models of the server at this address.",
            callback=check_address,
        ),
    ] = None,
) -> None:
    """List the models on this machine, or of a server."""
    from llm_serving_engine.server.commands import model_tables as tables

    if address is None:
        with _one_line_failures():
            tables.print_local_models()
    else:
        from llm_serving_engine.clients import Client
        from llm_serving_engine.clients.commands.failures import one_line_failures

        with one_line_failures(address), Client(address, timeout=_LIST_TIMEOUT_SECONDS) as client:
            tables.print_server_models(client.models())


@models.command(epilog="Example: llm-serving-engine models show builtin")
def show(model: Reference) -> None:
    """Show a model file's properties, and the memory it would take."""
    with _one_line_failures():
        from llm_serving_engine.backends.models import address, hub
        from llm_serving_engine.backends.models.errors import ModelNotFound
        from llm_serving_engine.backends.models.info import ModelInfo
        from llm_serving_engine.backends.models.reference import (
            HubModel,
            UrlModel,
            parse_reference,
        )
        from llm_serving_engine.backends.models.resolve import resolve
        from llm_serving_engine.server.commands.model_tables import print_model

        reference = parse_reference(model)
        fetched: object = True
        if isinstance(reference, HubModel):
            fetched = hub.cached_path(reference)
        elif isinstance(reference, UrlModel):
            fetched = address.cached_path(reference)
        if not fetched:
            raise ModelNotFound(f"{reference} is not on this machine: models pull {reference}")
        path = resolve(reference, progress=False)
        print_model(reference.name, ModelInfo.read(path))


@models.command(epilog="Example: llm-serving-engine models pull hf:OWNER/REPO/model.Q4_0.gguf")
def pull(model: HubReference) -> None:
    """Download a model from the Hugging Face hub or an address, or update it.

    Without FILE and QUANT, the best file that fits the memory.

    HF_ENDPOINT, HF_TOKEN, and HF_HOME have their usual meaning.
    """
    with _one_line_failures():
        from llm_serving_engine.backends import machine
        from llm_serving_engine.backends.models import address, hub
        from llm_serving_engine.backends.models.info import ModelInfo
        from llm_serving_engine.backends.models.reference import UrlModel

        reference = _remote_model(model)
        if isinstance(reference, UrlModel):
            path = address.download(reference, progress=True)
        else:
            memory = machine.available_memory()
            path = hub.download(reference, progress=True, memory=memory, explain=_explain)
        ModelInfo.read(path)
        typer.echo(path)


@models.command(epilog="Example: llm-serving-engine models rm hf:OWNER/REPO/model.Q4_0.gguf")
def rm(model: HubReference) -> None:
    """Remove a downloaded model; without FILE, all files of the repository."""
    with _one_line_failures():
        from llm_serving_engine.backends.models import address, hub
        from llm_serving_engine.backends.models.reference import UrlModel
        from llm_serving_engine.server.commands.model_tables import megabytes

        reference = _remote_model(model)
        if isinstance(reference, UrlModel):
            freed = address.remove(reference)
        else:
            freed = hub.remove(reference)
        typer.echo(f"removed {model}: {megabytes(freed)} freed")


@models.command(
    epilog="Example: llm-serving-engine models quantize model.F16.gguf Q4_0 -o model.Q4_0.gguf"
)
def quantize(
    source: Annotated[str, typer.Argument(metavar="MODEL", help=_REFERENCE_HELP)],
    type_name: Annotated[
        str,
        typer.Argument(
            metavar="TYPE", help="The type of the weights, such as Q4_0, Q8_0, Q4_K_M, or F16."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The file to write. Default: NAME.TYPE.gguf in this folder."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Overwrite an existing file.")
    ] = False,
) -> None:
    """Convert a model's weights to another type."""
    with _one_line_failures():
        from llm_serving_engine.backends.models.errors import QuantizeError
        from llm_serving_engine.backends.models.reference import parse_reference
        from llm_serving_engine.backends.models.resolve import resolve
        from llm_serving_engine.backends.quantize import quantized_type

        reference, target_type = parse_reference(source), quantized_type(type_name)
        target = output or Path(f"{reference.name}.{target_type}.gguf")
        if target.exists() and not force:
            raise QuantizeError(f"{target} exists: use --force to overwrite it")
        _quantize(resolve(reference, progress=True), target, target_type)
        typer.echo(target)


def _quantize(source: Path, target: Path, type_name: str) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from llm_serving_engine.backends.quantize import quantize as write

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"writing {target.name}", total=None)
        write(
            source,
            target,
            type_name,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )


def _remote_model(text: str) -> HubModel | UrlModel:
    from llm_serving_engine.backends.models.errors import InvalidReference
    from llm_serving_engine.backends.models.reference import (
        BuiltinModel,
        HubModel,
        UrlModel,
        parse_reference,
    )

    reference = parse_reference(text)
    if isinstance(reference, BuiltinModel):
        raise InvalidReference(
            f"{text} is installed with the packages; there is nothing to download or remove"
        )
    if not isinstance(reference, HubModel | UrlModel):
        raise InvalidReference(
            f"{text!r} is not of the form hf:OWNER/REPO[/FILE], hf:OWNER/REPO:QUANT, or https://..."
        )
    return reference


def _explain(reason: str) -> None:
    """Say why a file was chosen, on a terminal."""
    import sys

    if sys.stderr.isatty():
        typer.echo(reason, err=True)


def _one_line_failures() -> AbstractContextManager[None]:
    """How the commands here fail."""
    from llm_serving_engine.backends.models.errors import ModelError
    from llm_serving_engine.clients.commands.failures import failing_in_one_line

    return failing_in_one_line(ModelError)
