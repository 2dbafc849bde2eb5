"""The names and labels of the metrics, their documentation, and the page."""

from __future__ import annotations

import re
from pathlib import Path

from llm_serving_engine.scheduler import errors
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.step import Capabilities
from llm_serving_engine.server.telemetry.metrics import Metrics

DOCUMENT = Path(__file__).parents[2] / "docs" / "observability.md"
GEN_AI = {"gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model"}

# Names and labels are an interface: dashboards are made of them.
METRICS = {
    "gen_ai_server_request_duration_seconds": {*GEN_AI, "error_type"},
    "gen_ai_server_time_to_first_token_seconds": GEN_AI,
    "gen_ai_server_time_per_output_token_seconds": GEN_AI,
    "llm_serving_engine_requests_waiting": {"model", "priority"},
    "llm_serving_engine_requests_running": {"model"},
    "llm_serving_engine_requests_total": {"model", "outcome"},
    "llm_serving_engine_errors_total": {"model", "error"},
    "llm_serving_engine_refusals_total": {"model", "reason"},
    "llm_serving_engine_http_refused_total": {"reason"},
    "llm_serving_engine_tenant_tokens_total": {"model", "tenant", "kind"},
    "llm_serving_engine_prompt_tokens_total": {"model"},
    "llm_serving_engine_cached_prompt_tokens_total": {"model"},
    "llm_serving_engine_completion_tokens_total": {"model"},
    "llm_serving_engine_queue_seconds": {"model", "priority"},
    "llm_serving_engine_step_seconds": {"model"},
    "llm_serving_engine_step_decode_rows": {"model"},
    "llm_serving_engine_step_decode_runs": {"model"},
    "llm_serving_engine_step_prefill_tokens": {"model"},
    "llm_serving_engine_step_threads": {"model"},
    "llm_serving_engine_preemptions_total": {"model"},
    "llm_serving_engine_moves_total": {"model"},
    "llm_serving_engine_prefix_hits_total": {"model"},
    "llm_serving_engine_policy_failed": {"model"},
    "llm_serving_engine_cached_tokens": {"model"},
    "llm_serving_engine_cache_tokens": {"model"},
    "llm_serving_engine_cache_tokens_max": {"model"},
    "llm_serving_engine_cache_bytes": {"model"},
    "llm_serving_engine_cache_bytes_max": {"model"},
    "llm_serving_engine_saved_cache_bytes": {"model"},
    "llm_serving_engine_saved_cache_bytes_max": {"model"},
    "llm_serving_engine_queue_requests": {"model"},
    "llm_serving_engine_queue_requests_max": {"model"},
    "llm_serving_engine_queue_tokens": {"model"},
    "llm_serving_engine_queue_tokens_max": {"model"},
    "llm_serving_engine_queue_tenant_requests": {"model"},
    "llm_serving_engine_queue_tenant_requests_max": {"model"},
    "llm_serving_engine_queue_tenant_tokens": {"model"},
    "llm_serving_engine_queue_tenant_tokens_max": {"model"},
    "llm_serving_engine_stream_buffer_tokens": {"model"},
    "llm_serving_engine_stream_buffer_tokens_max": {"model"},
    "llm_serving_engine_sequences_max": {"model"},
    "llm_serving_engine_model_ready": {"model"},
    "llm_serving_engine_runner_memory_bytes": {"model"},
    "llm_serving_engine_runner_memory_bytes_max": {"model"},
    "llm_serving_engine_runner_losses_total": {"model", "loss"},
    "llm_serving_engine_server_memory_bytes": set(),
    "llm_serving_engine_build_info": {"version"},
}


def everything() -> Metrics:
    """Metrics in which every family has a sample."""
    metrics = Metrics()
    observer = metrics.observer("m", 1)
    request = Request("r", (1,), 1)
    observer.refused(request, errors.LimitReached("queue.requests", "full", 1.0))
    metrics.set_model_ready("m", True)
    metrics.processes.watch_memory("m", lambda: 0.0)
    metrics.processes.watch_streams("m", lambda: 0.0, 1)
    observer.transitioned(Sequence(request, 1, [Transition(State.WAITING, 0.0)]))
    metrics.watch_scheduler("m", lambda: Scheduler(Capabilities(1, 16)))
    return metrics


def exported() -> dict[str, set[str]]:
    """The names and labels of what is exported, as the text format has them."""
    families = {}
    for family in everything().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        families[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    return families


def test_names_and_labels() -> None:
    assert {n: labels for n, labels in exported().items() if not n.startswith("p")} == METRICS


def test_every_metric_is_documented_with_its_labels() -> None:
    document = DOCUMENT.read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| \w+ \| ([^|]*) \|", document, re.MULTILINE))
    for name, labels in exported().items():
        if name in METRICS:
            assert set(re.findall(r"`(\w+)`", rows.pop(name))) == labels
        else:
            assert f"`{name}`" in document
    assert not {name for name in rows if name.startswith(("gen_ai", "llm_serving"))}


def test_the_page() -> None:
    page, content_type = everything().render()
    assert content_type.startswith("text/plain") and b"_created" not in page  # noqa: PT018
    assert b'llm_serving_engine_requests_total{model="m",outcome="refused"} 1.0' in page
