"""Reports what a running server says of its models."""

from __future__ import annotations

from collections.abc import Iterator

from llm_serving_engine.clients import Client
from llm_serving_engine.clients.catalog import Model
from llm_serving_engine.clients.errors import ServingError
from llm_serving_engine.server.doctor.finding import Finding, note, problem

SECTION = "server"
TIMEOUT_SECONDS = 10.0


def look_at_server(address: str) -> Iterator[Finding]:
    """Ask the server at an address."""
    try:
        with Client(address, timeout=TIMEOUT_SECONDS) as client:
            models = client.models()
    except (ServingError, ValueError) as error:
        advice = "start it, or correct --address HOST:PORT"
        yield problem(SECTION, address, f"no answer: {' '.join(str(error).split())}", advice)
        return
    yield Finding(SECTION, address, "answers")
    for model in models:
        yield _state(model)
        if model.capabilities is not None:
            can = model.capabilities
            slots = f"{can.sequences_max} slots of {can.context_per_sequence:,} tokens"
            invariant = "can be batch-invariant" if can.batch_invariant else ""
            value = ", ".join(filter(None, (slots, invariant)))
            yield Finding(SECTION, f"{model.name}: slots", value)
            yield Finding(SECTION, f"{model.name}: memory", f"{model.memory_bytes / 1e6:,.0f} MB")
        if model.settings:
            settings = ", ".join(
                f"{name} {value}" for name, value in sorted(model.settings.items())
            )
            yield Finding(SECTION, f"{model.name}: settings", settings)
        for line in model.notes:
            yield Finding(SECTION, f"{model.name}: note", line)


def _state(model: Model) -> Finding:
    name = f"{model.name}: state"
    value = f"{model.state}, run by {model.backend}"
    if model.state == "ready":
        return Finding(SECTION, name, value)
    if model.state == "loading":
        return note(SECTION, name, value, "wait until it is loaded")
    return problem(SECTION, name, f"{value}: {model.state_reason}", "see the server's log")
