"""Prometheus metrics, updated by an observer of the scheduler.

Every server has a registry of its own. The observer of a model looks up the
metrics of steps once, and those of a request's end for each request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import Cancelled, RequestError
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import Operation, Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import count_groups
from llm_serving_engine.scheduler.step import Step, StepResult
from llm_serving_engine.server.refusals import HTTP_REFUSALS, refusal_reason
from llm_serving_engine.server.telemetry.identity import SERVICE_NAME, service_version
from llm_serving_engine.server.telemetry.process_metrics import ProcessMetrics
from llm_serving_engine.server.telemetry.scheduler_collector import SchedulerCollector
from llm_serving_engine.server.telemetry.tenants import TenantCollector, TenantCounters

# The attributes that OpenTelemetry's GenAI conventions require, as labels.
_GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")

_REFUSED = "refused"
_OUTCOMES = (*(state.value for state in State if state.ended), _REFUSED)

# From a short answer of a small model to a long one behind a full queue.
_REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
# At 430 prompt tokens a second (135M parameters, 2 cores), 10 tokens take 25 ms
# and 4,000 take 10 s; the queue comes on top.
_FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10, 20, 40, 80, 160)
# From a small model alone to a large one on few cores.
_OUTPUT_TOKEN_SECONDS = (
    *(0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08),
    *(0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5),
)
# The first tells those that did not wait.
_QUEUE_SECONDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_STEP_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.4, 0.8, 1.6, 3.2)
# Zero has a bucket: steps that only prefill, and steps that only decode.
_DECODE_ROWS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_PREFILL_TOKENS = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)

# A gauge with the creation time of each series would double the page.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of one server.

    Attributes:
        registry: What `render` renders.
        tenants: Those by tenant.
        processes: Those of the server's process and the runners'.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Register everything in `registry`, by default a new one."""
        self.registry = CollectorRegistry() if registry is None else registry
        self._define_request_metrics()
        self._define_step_metrics()
        self._define_model_metrics()
        self._gauge("llm_serving_engine_build_info", "Always 1.", "version").labels(
            service_version()
        ).set(1)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._schedulers = SchedulerCollector(self.registry)
        self._http_refused = Counter(
            "llm_serving_engine_http_refused_total",
            "HTTP connections and requests that a limit of the listener refused.",
            ("reason",),
            registry=self.registry,
        )
        for reason in HTTP_REFUSALS:
            self._http_refused.labels(reason)
        self.tenants = TenantCollector(self.registry)
        self.processes = ProcessMetrics(self.registry)

    def observer(self, model: str, sequences_max: int) -> ModelObserver:
        """The observer for one model's engine, which has `sequences_max` slots."""
        return ModelObserver(self, model, sequences_max)

    def refused(self, model: str, error: RequestError) -> None:
        """Count a request that was refused before it reached a model's queue.

        Args:
            model: The model's name; empty where there is no such model, as
                callers must not be able to make up label values.
            error: Why.
        """
        self.requests.labels(model, _REFUSED).inc()
        self.errors.labels(model, error.label).inc()
        self.refusals.labels(model, refusal_reason(error)).inc()

    def http_refused(self, reason: str, status: int) -> None:
        """Count an HTTP connection or request that a limit refused, by a reason of ours."""
        del status
        self._http_refused.labels(reason).inc()

    def set_model_ready(self, model: str, ready: bool) -> None:
        """Whether the model takes requests."""
        self._model_ready.labels(model).set(ready)

    def watch_scheduler(self, model: str, read: Callable[[], Scheduler | None]) -> None:
        """Have `read` give the model's scheduler whenever metrics are read; None before loading."""
        self._schedulers.watch(model, read)

    def read(self) -> Readings:
        """Return a copy of all metrics. Call on the event loop, so that they cannot change."""
        return Readings(list(self.registry.collect()))

    def render(self) -> tuple[bytes, str]:
        """The page that Prometheus reads, and its content type."""
        return self.read().render()

    def _define_request_metrics(self) -> None:
        self.request_seconds = self._histogram(
            "gen_ai_server_request_duration_seconds",
            "From a request's arrival to its end.",
            _REQUEST_SECONDS,
            *_GEN_AI,
            "error_type",
        )
        self.first_token_seconds = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From arrival to the first token, of requests that finished.",
            _FIRST_TOKEN_SECONDS,
            *_GEN_AI,
        )
        self.output_token_seconds = self._histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Per token after the first, of requests that finished.",
            _OUTPUT_TOKEN_SECONDS,
            *_GEN_AI,
        )
        self.queue_seconds = self._histogram(
            "llm_serving_engine_queue_seconds",
            "Waiting of a request that ended, all its waits added up.",
            _QUEUE_SECONDS,
            "model",
            "priority",
        )
        self.waiting = self._gauge(
            "llm_serving_engine_requests_waiting", "Requests in the queue.", "model", "priority"
        )
        self.running = self._gauge(
            "llm_serving_engine_requests_running", "Requests that hold a slot.", "model"
        )
        self.requests = self._counter(
            "llm_serving_engine_requests_total", "Requests that ended.", "outcome"
        )
        self.errors = self._counter(
            "llm_serving_engine_errors_total",
            "Requests that ended with an error, cancellations aside.",
            "error",
        )
        self.refusals = self._counter(
            "llm_serving_engine_refusals_total",
            "Requests that were not taken, by the limit or error that was the reason.",
            "reason",
        )
        self.prompt_tokens = self._counter(
            "llm_serving_engine_prompt_tokens_total", "Prompt tokens, once a prompt is computed."
        )
        self.cached_prompt_tokens = self._counter(
            "llm_serving_engine_cached_prompt_tokens_total", "Those found in the cache."
        )
        self.completion_tokens = self._counter(
            "llm_serving_engine_completion_tokens_total", "Tokens produced, as they are produced."
        )

    def _define_step_metrics(self) -> None:
        self.step_seconds = self._histogram(
            "llm_serving_engine_step_seconds",
            "The runner's time for a step.",
            _STEP_SECONDS,
            "model",
        )
        self.step_decode_rows = self._histogram(
            "llm_serving_engine_step_decode_rows",
            "Sequences that got a token in a step.",
            _DECODE_ROWS,
            "model",
        )
        self.step_decode_runs = self._histogram(
            "llm_serving_engine_step_decode_runs",
            "Runs of consecutive slots among the sequences that got a token in a step.",
            _DECODE_ROWS,
            "model",
        )
        self.step_prefill_tokens = self._histogram(
            "llm_serving_engine_step_prefill_tokens",
            "Prompt tokens in a step.",
            _PREFILL_TOKENS,
            "model",
        )
        self.step_threads = self._gauge(
            "llm_serving_engine_step_threads", "Threads that computed the last step.", "model"
        )

    def _define_model_metrics(self) -> None:
        self.sequences_max = self._gauge("llm_serving_engine_sequences_max", "Slots.", "model")
        self._model_ready = self._gauge(
            "llm_serving_engine_model_ready", "1 if the model accepts requests, else 0.", "model"
        )

    def _histogram(
        self, name: str, documentation: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, documentation, labels, registry=self.registry, buckets=buckets)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, ("model", *labels), registry=self.registry)

    def _gauge(self, name: str, documentation: str, *labels: str) -> Gauge:
        return Gauge(name, documentation, labels, registry=self.registry)


class Readings:
    """All metrics of one moment. May be rendered on any thread."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """The metrics, as the library asks a registry for them."""
        return self._families

    def render(self) -> tuple[bytes, str]:
        """The page that Prometheus reads, and its content type."""
        return generate_latest(self), CONTENT_TYPE_LATEST


@dataclass(slots=True)
class _Counted:
    """What of a sequence is counted already: transitions, and tokens."""

    tenant: TenantCounters
    transitions: int = 0
    tokens: int = 0


class ModelObserver:
    """Updates the metrics of one model. An `Observer`; not thread-safe."""

    def __init__(self, metrics: Metrics, model: str, sequences_max: int) -> None:
        self._metrics = metrics
        self._model = model
        self._live: dict[Sequence, _Counted] = {}
        self._running: dict[Sequence, _Counted] = {}
        self._waiting = {
            priority: metrics.waiting.labels(model, priority.name.lower()) for priority in Priority
        }
        self._queue_seconds = {
            priority: metrics.queue_seconds.labels(model, priority.name.lower())
            for priority in Priority
        }
        self._requests = {outcome: metrics.requests.labels(model, outcome) for outcome in _OUTCOMES}
        self._requests_running = metrics.running.labels(model)
        self._prompt_tokens = metrics.prompt_tokens.labels(model)
        self._cached_prompt_tokens = metrics.cached_prompt_tokens.labels(model)
        self._completion_tokens = metrics.completion_tokens.labels(model)
        self._step_seconds = metrics.step_seconds.labels(model)
        self._step_decode_rows = metrics.step_decode_rows.labels(model)
        self._step_decode_runs = metrics.step_decode_runs.labels(model)
        self._step_prefill_tokens = metrics.step_prefill_tokens.labels(model)
        self._step_threads = metrics.step_threads.labels(model)
        self._tenants = metrics.tenants.of(model)
        self._gen_ai = {
            operation: (operation.value, SERVICE_NAME, model) for operation in Operation
        }
        for labels in self._gen_ai.values():
            metrics.request_seconds.labels(*labels, "")
            metrics.first_token_seconds.labels(*labels)
            metrics.output_token_seconds.labels(*labels)
        metrics.sequences_max.labels(model).set(sequences_max)

    def transitioned(self, sequence: Sequence) -> None:
        """Count a request's new states.

        A step can take a request through several states before the call. Each entry of
        its history is counted once.
        """
        counted = self._live.get(sequence)
        if counted is None:
            if sequence.state.ended:
                return  # counted already
            counted = self._live[sequence] = _Counted(self._tenants.of(sequence.request.tenant))
        for index in range(counted.transitions, len(sequence.history)):
            self._entered(sequence, counted, index)
        counted.transitions = len(sequence.history)
        self._requests_running.set(len(self._running))

    def refused(self, request: Request, error: RequestError) -> None:
        """A request was not taken into the queue."""
        self._metrics.refused(self._model, error)

    def stepped(self, step: Step, result: StepResult) -> None:
        """A step is done."""
        rows = [run.slot for run in step.runs] if step.rows else []
        self._step_seconds.observe(result.seconds + result.operation_seconds)
        self._step_decode_rows.observe(len(rows))
        self._step_decode_runs.observe(count_groups(rows))
        self._step_prefill_tokens.observe(step.prompt_tokens)
        self._step_threads.set(result.threads)
        produced = sum(
            _new_tokens(sequence, counted) for sequence, counted in self._running.items()
        )
        self._completion_tokens.inc(produced)

    def _entered(self, sequence: Sequence, counted: _Counted, index: int) -> None:
        history, priority = sequence.history, sequence.request.priority
        state = history[index].state
        if index and history[index - 1].state is State.WAITING:
            self._waiting[priority].dec()
        if state is State.WAITING:
            self._waiting[priority].inc()
        if state.running:
            self._running[sequence] = counted
        elif self._running.pop(sequence, None):
            self._completion_tokens.inc(_new_tokens(sequence, counted))
        if state is State.DECODE and not _was(sequence, State.DECODE, index):
            self._prompt_tokens.inc(len(sequence.request.prompt))
            counted.tenant.prompt += len(sequence.request.prompt)
            self._cached_prompt_tokens.inc(sequence.cached_prompt_tokens or 0)
        if state.ended:
            del self._live[sequence]
            self._ended(sequence, counted)

    def _ended(self, sequence: Sequence, counted: _Counted) -> None:
        state = sequence.state
        self._requests[state.value].inc()
        seconds = sequence.history[-1].at - sequence.arrived_at
        waited = sequence.seconds_in(State.WAITING)
        self._queue_seconds[sequence.request.priority].observe(waited)
        label = ""
        if state is State.FINISHED:
            self._finished(sequence, counted)
        elif state is State.CANCELLED:
            label = Cancelled.label
        else:
            label = (sequence.error or RequestError()).label
            self._metrics.errors.labels(self._model, label).inc()
        labels = self._gen_ai[sequence.request.operation]
        self._metrics.request_seconds.labels(*labels, label).observe(seconds)

    def _finished(self, sequence: Sequence, counted: _Counted) -> None:
        first, last = sequence.first_token_at, sequence.last_token_at
        if first is None or last is None:
            return
        labels = self._gen_ai[sequence.request.operation]
        self._metrics.first_token_seconds.labels(*labels).observe(first - sequence.arrived_at)
        # The stop token was computed too, although it is no output.
        sampled = counted.tokens + (sequence.stop_token is not None)
        if sampled > 1:
            token_seconds = (last - first) / (sampled - 1)
            self._metrics.output_token_seconds.labels(*labels).observe(token_seconds)


def _new_tokens(sequence: Sequence, counted: _Counted) -> int:
    """Tokens that are not counted yet; the tenant's are now."""
    # The output has no end-of-sequence token. Tokens that a stop sequence cut off
    # stay counted.
    new = max(len(sequence.output) - counted.tokens, 0)
    counted.tokens += new
    counted.tenant.completion += new
    return new


def _was(sequence: Sequence, state: State, before: int) -> bool:
    return any(transition.state is state for transition in sequence.history[:before])
