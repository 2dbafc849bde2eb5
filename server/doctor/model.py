"""Checks the configured model: its file, its memory, and its kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from llm_serving_engine.backends import machine, registry
from llm_serving_engine.backends.backend import BackendConfig, LoadError
from llm_serving_engine.backends.llama_cpp.kernel_choice import with_kernels
from llm_serving_engine.backends.llama_cpp.memory import estimate_memory
from llm_serving_engine.backends.llama_cpp.settings import Settings
from llm_serving_engine.backends.llama_cpp.speed_choice import remembered_speed
from llm_serving_engine.backends.memory_estimate import check_fits
from llm_serving_engine.backends.models import hub
from llm_serving_engine.backends.models.errors import ModelError
from llm_serving_engine.backends.models.info import ModelInfo
from llm_serving_engine.backends.models.kinds import check_generates
from llm_serving_engine.backends.models.reference import HubModel, parse_reference
from llm_serving_engine.backends.models.resolve import resolve
from llm_serving_engine.backends.text.chat import ChatTemplate, TemplateError
from llm_serving_engine.server.config import ModelConfig, ServerConfig
from llm_serving_engine.server.doctor.finding import Finding, note, problem
from llm_serving_engine.server.model_text import read_template

SECTION = "model"


def look_at_model(config: ServerConfig, *, served: bool = False) -> Iterator[Finding]:
    """Look at its file; nothing is loaded or fetched.

    Args:
        config: The server's.
        served: Whether a server may run here already, and hold the memory of its model.
    """
    model = config.model
    if model.backend == registry.SCRIPTED:
        yield Finding(SECTION, "file", "none: the scripted backend needs none")
        return
    try:
        reference = parse_reference(model.reference)
        if isinstance(reference, HubModel) and hub.cached_path(reference) is None:
            advice = f"llm-serving-engine models pull {reference}; serve does it, too"
            yield note(SECTION, "file", f"{reference} is not downloaded", advice)
            return
        path = resolve(reference, progress=False)
        yield from _look_at_file(path, config, served)
    except LoadError as error:
        yield problem(SECTION, "settings", str(error), "correct the configuration: model.runner")
    except (ModelError, ValueError, OSError) as error:
        yield problem(SECTION, "file", str(error), "name an existing model: --model")


def _look_at_file(path: Path, config: ServerConfig, served: bool) -> Iterator[Finding]:
    backend = registry.choose(config.model.backend, path)
    if backend != registry.LLAMA_CPP:
        yield Finding(SECTION, "file", f"{path}, run by {backend}")
        return
    info = ModelInfo.read(path)
    check_generates(info)
    yield Finding(SECTION, "file", f"{path}: {info.description}, {info.quantization}")
    runner = config.model.runner
    invariant = config.scheduler.determinism == "batch_invariant"
    settings, notes = with_kernels(Settings.choose(runner, info), info, invariant)
    yield _memory(info, settings, runner.memory_bytes_max, served)
    yield Finding(SECTION, "kernels", notes.kernels)
    yield from _speed(path, replace(runner, batch_invariant=invariant), settings)
    if notes.slow_weights:
        yield note(SECTION, "weights", info.quantization, notes.slow_weights)
    yield _chat_template(info, config.model)


def _speed(path: Path, runner: BackendConfig, settings: Settings) -> Iterator[Finding]:
    """Report attention and unit from an earlier load, or that there was none."""
    choice = remembered_speed(path, runner, settings)
    for reason in choice.reasons if choice else ():
        yield Finding(SECTION, "speed", reason)


def _memory(info: ModelInfo, settings: Settings, limit: int | None, served: bool) -> Finding:
    estimate = estimate_memory(info, settings)
    slots = f"{settings.sequences} slots of {settings.context_per_sequence:,} tokens"
    value = f"{estimate.described()}, for {slots}"
    try:
        check_fits(estimate, limit)
    except LoadError:
        available = machine.memory_within(limit)
        short = f"{value}; {available / 1e6:,.0f} MB are available"
        if served:
            advice = "the running server may hold this memory: check again after it has ended"
            return note(SECTION, "memory", short, advice)
        advice = "lower sequences, context_per_sequence, or prefill_chunk"
        return problem(SECTION, "memory", short, advice)
    return Finding(SECTION, "memory", value)


def _chat_template(info: ModelInfo, config: ModelConfig) -> Finding:
    """Test the chat template, as far as possible without the vocabulary."""
    name, configured = "chat template", config.chat_template
    try:
        source = read_template(configured) if configured else info.chat_template
        if source is None:
            return Finding(SECTION, name, "none: the model takes prompts only, not chats")
        template = ChatTemplate(source, arguments=config.template_arguments)
        prompt = template.render([{"role": "user", "content": "hello"}]).text
    except (LoadError, TemplateError) as error:
        if configured:
            return problem(SECTION, name, str(error), "serve cannot start: correct the file")
        advice = "chat requests are refused: set model.chat_template to another file"
        return note(SECTION, name, str(error), advice)
    whose = configured or "the file's"
    return Finding(SECTION, name, f"{whose}; a short conversation has {len(prompt)} characters")
