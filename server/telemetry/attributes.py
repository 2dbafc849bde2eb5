"""Makes span attributes by OpenTelemetry's RPC and GenAI conventions.

Pure functions from the domain to attributes: counts, settings, and outcomes.
Prompt and output are not among them.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_serving_engine.scheduler.errors import Cancelled, RequestError
from llm_serving_engine.scheduler.lifecycle import Event
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.server.events import Finished
from llm_serving_engine.server.telemetry.identity import SERVICE_NAME

Value = str | int | float | list[str]
Attributes = dict[str, Value]

_INT64_MAX = 2**63 - 1


def rpc_attributes(method: str) -> Attributes:
    """Return the attributes at an RPC's arrival. `method` is `package.Service/Method`."""
    return {"rpc.system.name": "grpc", "rpc.method": method}


def http_attributes(method: str, route: str) -> Attributes:
    """Return the attributes at an HTTP request's arrival; `route` is the route's template."""
    return {"http.request.method": method, "http.route": route}


def request_attributes(
    request: Request, model: str, *, request_id: str, stop: Iterable[str]
) -> Attributes:
    """Return the attributes of a valid request.

    Args:
        request: The validated request.
        model: The name of the model that serves it.
        request_id: The id that the caller sees.
        stop: The stop sequences, as text.
    """
    sampling = request.sampling
    attributes: Attributes = {
        "gen_ai.operation.name": request.operation.value,
        "gen_ai.provider.name": SERVICE_NAME,
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": float(sampling.top_k),
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.response.id": request_id,
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": len(request.prompt),
        "llm_serving_engine.priority": request.priority.name.lower(),
    }
    # OTLP's integers are signed: a larger seed would be an export error, and
    # one that is changed to fit would be a lie.
    if sampling.seed <= _INT64_MAX:
        attributes["gen_ai.request.seed"] = sampling.seed
    if sequences := list(stop):
        attributes["gen_ai.request.stop_sequences"] = sequences
    if request.tenant:
        attributes["llm_serving_engine.tenant"] = request.tenant
    return attributes


def result_attributes(sequence: Sequence, finished: Finished | None = None) -> Attributes:
    """Return the attributes of the result; `finished` is the caller's last event, if any."""
    completion = finished.usage.completion_tokens if finished else len(sequence.output)
    reason = finished.finish_reason if finished else sequence.finish_reason
    attributes: Attributes = {
        "gen_ai.usage.output_tokens": completion,
        "gen_ai.usage.cache_read.input_tokens": sequence.cached_prompt_tokens or 0,
        "llm_serving_engine.preemptions": sequence.times(Event.PREEMPT),
    }
    if sequence.first_token_at is not None:
        waited = sequence.first_token_at - sequence.arrived_at
        attributes["gen_ai.response.time_to_first_chunk"] = waited
    if reason is not None:
        attributes["gen_ai.response.finish_reasons"] = [reason.value]
    return attributes


def status_attributes(status_code: str, error: RequestError | None) -> Attributes:
    """How the RPC ended. `status_code` is the gRPC status code's name."""
    attributes: Attributes = {
        "rpc.response.status_code": status_code,
        # Repeated under a shorter name that dashboards may look for.
        "rpc.status_code": status_code,
    }
    if status_code != "OK":
        attributes["error.type"] = error_type(status_code, error)
    return attributes


def error_type(status_code: str, error: RequestError | None) -> str:
    """The label under which the error is counted, or else the status code's name."""
    if error is not None:
        return error.label
    return Cancelled.label if status_code == Cancelled.code else status_code
