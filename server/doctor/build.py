"""Checks the build of llama.cpp: its compilation, and its self-check."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from llm_serving_engine.backends.build_record import BuildRecord, Outcome, read_build_record
from llm_serving_engine.backends.cpu import cpu_flags
from llm_serving_engine.backends.llama_cpp.kernels import Kernels
from llm_serving_engine.backends.llama_library import library
from llm_serving_engine.backends.models.errors import ModelError
from llm_serving_engine.server.doctor.finding import Finding, note, problem

SECTION = "build"
SELF_CHECK = "python -m llm_serving_engine.backends.self_check"
REBUILD = "run `make setup` on this machine, or install llama-cpp-python again"


def look_at_build() -> Iterator[Finding]:
    """Look at the installed llama.cpp."""
    try:
        installed = version("llama-cpp-python")
    except PackageNotFoundError:
        yield problem(SECTION, "llama.cpp", "not installed", REBUILD)
        return
    record = read_build_record()
    yield from _described(installed, record)
    try:
        library()
    except ModelError as error:
        yield problem(SECTION, "library", str(error), REBUILD)
        return
    yield Finding(SECTION, "kernels", ", ".join(Kernels().kinds))
    yield from _checked(record)


def _described(installed: str, record: BuildRecord | None) -> Iterator[Finding]:
    if record is None:
        yield Finding(SECTION, "llama.cpp", f"llama-cpp-python {installed}")
        return
    value = f"llama-cpp-python {installed}, {record.features}"
    missing = record.missing(cpu_flags())
    if missing and cpu_flags():
        lacks = f"{value}; this processor lacks {', '.join(missing)}"
        yield problem(SECTION, "llama.cpp", lacks, REBUILD)
    elif record.cost:
        failures = "; ".join(f"{one.features}: {one.failure}" for one in record.attempts)
        advice = f"another compiler may do better ({failures})" if failures else REBUILD
        yield note(SECTION, "llama.cpp", f"{value}: {record.cost}", advice)
    else:
        yield Finding(SECTION, "llama.cpp", value)
    if record.compiler:
        yield Finding(SECTION, "compiler", record.compiler)
    if record.library_features:
        yield Finding(SECTION, "features", " ".join(record.library_features))


def _checked(record: BuildRecord | None) -> Iterator[Finding]:
    if record is None or not record.checked:
        yield note(SECTION, "self-check", "not done", f"do it: {SELF_CHECK}")
        return
    for name, check in record.checks.items():
        if check.outcome is Outcome.OK:
            error = "" if check.error is None else f" (error {check.error:.2g})"
            yield Finding(SECTION, f"self-check {name}", f"right{error}")
        else:
            value = f"{check.outcome.value}: {check.detail}".rstrip(": ")
            advice = f"do not use models in {name}; {REBUILD}"
            yield problem(SECTION, f"self-check {name}", value, advice)
