"""Prints models for the `models` commands: a table on a terminal, tabs in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_serving_engine.backends.backend import BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp.kernel_choice import with_kernels
from llm_serving_engine.backends.llama_cpp.memory import estimate_memory
from llm_serving_engine.backends.llama_cpp.settings import CACHE_TYPES, Settings
from llm_serving_engine.backends.models import hub
from llm_serving_engine.backends.models.builtin import builtin_path
from llm_serving_engine.backends.models.errors import LibraryMissing, ModelNotFound
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.clients.catalog import Model

_MEGABYTE = 1_000_000
_MILLION = 1_000_000


def megabytes(count: float) -> str:
    """Bytes for people, such as "98.4 MB"."""
    return f"{count / _MEGABYTE:,.1f} MB"


def print_local_models() -> None:
    """The models on this machine: what to write for each, its size, and its file."""
    rows = [(str(file.model), megabytes(file.bytes), str(file.path)) for file in hub.cached_files()]
    try:
        path = builtin_path()
    except ModelNotFound:
        pass
    else:
        rows.insert(0, ("builtin", megabytes(path.stat().st_size), str(path)))
    _print_rows(("MODEL", "SIZE", "FILE"), rows)


def print_server_models(models: Iterable[Model]) -> None:
    """A server's models; the default one bears a star."""
    header = ("MODEL", "STATE", "ARCHITECTURE", "PARAMETERS", "WEIGHTS", "MEMORY", "SEQUENCES")
    rows = [
        (
            model.name + ("*" if model.is_default else ""),
            ": ".join(filter(None, (model.state, model.state_reason))),
            model.architecture,
            _millions(model.parameter_count),
            model.quantization,
            megabytes(model.memory_bytes) if model.memory_bytes else "",
            _slots(model),
        )
        for model in models
    ]
    _print_rows(header, rows)


def print_model(name: str, info: ModelInfo) -> None:
    """One model's file, and the memory that it takes with the default configuration."""
    rows = [
        ("name", name),
        ("file", str(info.path)),
        ("description", info.description),
        ("architecture", info.architecture),
        ("parameters", _millions(info.parameter_count)),
        ("weights", info.quantization),
        ("layers", str(info.layers)),
        ("heads", f"{info.heads}, {max(info.kv_heads)} for keys and values"),
        ("vocabulary", f"{info.vocabulary_size:,} tokens"),
        ("trained for", f"{info.training_context:,} tokens of context"),
        ("chat template", "yes" if info.chat_template else "no"),
        ("sampling", _recommended(info)),
        *_kernel_rows(info),
    ]
    _print_rows((), rows)


def _recommended(info: ModelInfo) -> str:
    """Return the sampling that the file recommends as defaults."""
    words = (f"{name} {value:g}" for name, value in info.sampling.items())
    return ", ".join(words) or "nothing recommended"


def _kernel_rows(info: ModelInfo) -> Iterable[tuple[str, str]]:
    """Return rows for the model's kernels on this machine, and its memory with them."""
    try:
        settings = Settings.choose(BackendConfig(), info)
    except LoadError as error:
        yield "memory: weights", megabytes(info.weights_bytes)
        yield "memory: cache", str(error)
        return
    try:
        settings, notes = with_kernels(settings, info, batch_invariant=False)
    except LibraryMissing:
        pass  # what the file says can be shown without the library
    else:
        yield "kernels", notes.kernels
        if notes.slow_weights:
            yield "slow weights", notes.slow_weights
    yield from _memory_rows(info, settings)


def _memory_rows(info: ModelInfo, settings: Settings) -> Iterable[tuple[str, str]]:
    estimate = estimate_memory(info, settings)
    token_bytes = info.cache_bytes_per_token(CACHE_TYPES[settings.cache_type])
    sequences, context = settings.sequences, settings.context_per_sequence
    yield "memory: weights", megabytes(estimate.weights)
    if estimate.repacked:
        yield "memory: copies", f"{megabytes(estimate.repacked)} of weights, in another order"
    yield (
        "memory: cache",
        f"{megabytes(estimate.cache)} for {sequences} sequences "
        f"of {context:,} tokens, {token_bytes:,} bytes each",
    )
    if info.state_bytes:
        yield "memory: state", f"{info.state_bytes:,} bytes of each sequence's cache"
    yield "memory: buffers", megabytes(estimate.buffers)
    yield "memory: in all", megabytes(estimate.total)


def _slots(model: Model) -> str:
    if model.capabilities is None:
        return ""
    can = model.capabilities
    return f"{can.sequences_max} x {can.context_per_sequence:,}"


def _millions(count: int) -> str:
    return f"{count / _MILLION:,.1f} M"


def _print_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    console = Console()
    if not console.is_terminal:
        for row in (header, *rows):
            if row:
                typer.echo("\t".join(row))
        return
    rows = list(rows)
    table = Table(box=None, show_header=bool(header), pad_edge=False)
    for title in header or ("",) * len(rows[0]):
        table.add_column(title, overflow="fold")
    for row in rows:
        # Never as markup: file names may hold brackets.
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
