"""What the observers count."""

from __future__ import annotations

import pytest

from llm_serving_engine.scheduler import errors
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import FinishReason, Operation, Priority, Request
from llm_serving_engine.scheduler.sequence import Sequence, Transition
from llm_serving_engine.scheduler.slots import Snapshot
from llm_serving_engine.scheduler.step import (
    Capabilities,
    Run,
    Step,
    StepResult,
)
from llm_serving_engine.server.engine.observer import Observer
from llm_serving_engine.server.not_found import UnknownModel
from llm_serving_engine.server.telemetry.metrics import Metrics, ModelObserver
from llm_serving_engine.server.telemetry.tenants import TENANTS_MAX

MODEL = {"model": "m"}
DURATION = "gen_ai_server_request_duration_seconds_sum"
GEN_AI = {
    "gen_ai_operation_name": "text_completion",
    "gen_ai_provider_name": "llm-serving-engine",
    "gen_ai_request_model": "m",
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def observer(metrics: Metrics) -> ModelObserver:
    return metrics.observer("m", sequences_max=4)


class Course:
    """A request that is taken through its life by hand, the observer told of each step."""

    def __init__(
        self,
        observer: Observer,
        at: float,
        priority: Priority = Priority.NORMAL,
        tenant: str = "",
        operation: Operation = Operation.TEXT_COMPLETION,
    ) -> None:
        self.observer = observer
        request = Request(
            "r", (1, 2, 3, 4, 5), 9, priority=priority, tenant=tenant, operation=operation
        )
        self.sequence = Sequence(request, 1, [Transition(State.WAITING, at)])
        observer.transitioned(self.sequence)

    def to(self, event: Event, at: float) -> Course:
        self.sequence.advance(event, at)
        self.observer.transitioned(self.sequence)
        return self

    def token(self, at: float) -> Course:
        if self.sequence.first_token_at is None:
            self.sequence.first_token_at = at
        self.sequence.last_token_at = at
        self.sequence.output.append(7)
        return self


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    model = GEN_AI if name.startswith("gen_ai") else MODEL
    return metrics.registry.get_sample_value(name, model | labels)


def waiting(metrics: Metrics, priority: str = "normal") -> float | None:
    return value(metrics, "llm_serving_engine_requests_waiting", priority=priority)


def running(metrics: Metrics) -> float | None:
    return value(metrics, "llm_serving_engine_requests_running")


def requests(metrics: Metrics, outcome: str) -> float | None:
    return value(metrics, "llm_serving_engine_requests_total", outcome=outcome)


def test_a_request_that_finishes(metrics: Metrics, observer: ModelObserver) -> None:
    course = Course(observer, at=10.0)
    assert (waiting(metrics), running(metrics)) == (1, 0)

    course.sequence.cached_prompt_tokens = 2
    course.to(Event.ADMIT, 10.5)
    assert (waiting(metrics), running(metrics)) == (0, 1)

    course.to(Event.FIRST_TOKEN, 11.0).token(11.0)
    assert value(metrics, "llm_serving_engine_prompt_tokens_total") == 5
    assert value(metrics, "llm_serving_engine_cached_prompt_tokens_total") == 2

    course.token(11.25).token(11.5)
    course.sequence.finish_reason = FinishReason.MAX_TOKENS
    course.to(Event.FINISH, 11.5)

    assert (waiting(metrics), running(metrics)) == (0, 0)
    assert requests(metrics, "finished") == 1
    assert value(metrics, "llm_serving_engine_completion_tokens_total") == 3
    assert value(metrics, DURATION, error_type="") == 1.5
    assert value(metrics, "llm_serving_engine_queue_seconds_sum", priority="normal") == 0.5
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_sum") == 1.0
    assert value(metrics, "gen_ai_server_time_per_output_token_seconds_sum") == 0.25
    assert value(metrics, "gen_ai_server_time_per_output_token_seconds_count") == 1


def test_an_end_of_sequence_token_takes_time_and_is_no_output(
    metrics: Metrics, observer: ModelObserver
) -> None:
    course = Course(observer, 0.0).to(Event.ADMIT, 0.0).to(Event.FIRST_TOKEN, 1.0).token(1.0)
    course.token(1.5)
    course.sequence.last_token_at = 2.0
    course.sequence.stop_token = 2
    course.sequence.finish_reason = FinishReason.END_OF_SEQUENCE
    course.to(Event.FINISH, 2.0)
    assert value(metrics, "llm_serving_engine_completion_tokens_total") == 2
    assert value(metrics, "gen_ai_server_time_per_output_token_seconds_sum") == 0.5


def test_an_output_of_one_token_has_no_time_per_token(
    metrics: Metrics, observer: ModelObserver
) -> None:
    course = Course(observer, 0.0).to(Event.ADMIT, 0.0).to(Event.FIRST_TOKEN, 1.0).token(1.0)
    course.sequence.finish_reason = FinishReason.MAX_TOKENS
    course.to(Event.FINISH, 1.0)
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_count") == 1
    assert value(metrics, "gen_ai_server_time_per_output_token_seconds_count") == 0


def test_the_operations_are_told_apart(metrics: Metrics, observer: ModelObserver) -> None:
    course = Course(observer, 0.0, operation=Operation.CHAT)
    course.to(Event.ADMIT, 0.0).to(Event.FIRST_TOKEN, 1.0).token(1.0).token(2.0)
    course.sequence.finish_reason = FinishReason.MAX_TOKENS
    course.to(Event.FINISH, 2.0)
    chat = {"gen_ai_operation_name": "chat"}
    assert value(metrics, DURATION, error_type="", **chat) == 2.0
    assert value(metrics, DURATION, error_type="") == 0.0
    for name, expected in (("time_to_first_token", 1.0), ("time_per_output_token", 1.0)):
        total = f"gen_ai_server_{name}_seconds_sum"
        assert (value(metrics, total, **chat), value(metrics, total)) == (expected, 0.0)


def test_transitions_told_late_count_once(metrics: Metrics, observer: ModelObserver) -> None:
    course = Course(observer, at=0.0)
    course.to(Event.ADMIT, 1.0)
    course.sequence.advance(Event.FIRST_TOKEN, 2.0)
    course.token(2.0)
    course.sequence.advance(Event.FINISH, 2.0)
    observer.transitioned(course.sequence)
    observer.transitioned(course.sequence)
    assert requests(metrics, "finished") == 1
    assert running(metrics) == 0
    assert value(metrics, "llm_serving_engine_prompt_tokens_total") == 5
    assert value(metrics, "llm_serving_engine_completion_tokens_total") == 1


def test_a_preempted_request_is_counted_once(metrics: Metrics, observer: ModelObserver) -> None:
    course = Course(observer, at=0.0).to(Event.ADMIT, 1.0).to(Event.FIRST_TOKEN, 2.0).token(2.0)
    course.to(Event.PREEMPT, 3.0)
    assert (waiting(metrics), running(metrics)) == (1, 0)
    course.to(Event.ADMIT, 5.0).to(Event.FIRST_TOKEN, 6.0).token(6.0).to(Event.FINISH, 6.0)
    assert (waiting(metrics), running(metrics)) == (0, 0)
    assert value(metrics, "llm_serving_engine_prompt_tokens_total") == 5
    assert value(metrics, "llm_serving_engine_completion_tokens_total") == 2
    assert value(metrics, "llm_serving_engine_queue_seconds_sum", priority="normal") == 3.0
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_sum") == 2.0
    assert requests(metrics, "finished") == 1


def test_what_a_stop_sequence_cut_off_stays_counted(
    metrics: Metrics, observer: ModelObserver
) -> None:
    course = Course(observer, 0.0).to(Event.ADMIT, 0.0).to(Event.FIRST_TOKEN, 1.0).token(1.0)
    course.token(2.0).token(3.0)
    observer.stepped(Step(1), StepResult(1))
    del course.sequence.output[1:]
    course.sequence.finish_reason = FinishReason.STOP_SEQUENCE
    course.to(Event.FINISH, 3.0)
    assert value(metrics, "llm_serving_engine_completion_tokens_total") == 3
    assert value(metrics, "gen_ai_server_time_per_output_token_seconds_sum") == 1.0


@pytest.mark.parametrize(
    ("event", "outcome"), [(Event.CANCEL, "cancelled"), (Event.FAIL, "failed")]
)
@pytest.mark.parametrize("admitted", [False, True])
def test_cancelled_and_failed_are_told_apart(
    metrics: Metrics, observer: ModelObserver, event: Event, outcome: str, admitted: bool
) -> None:
    course = Course(observer, at=0.0, priority=Priority.HIGH)
    if admitted:
        course.to(Event.ADMIT, 1.0)
    course.sequence.error = errors.RunnerFailed("the runner failed")
    course.to(event, 4.0)
    assert requests(metrics, outcome) == 1
    failed = event is Event.FAIL
    failures = value(metrics, "llm_serving_engine_errors_total", error="runner_failed")
    assert failures == (1 if failed else None)
    error_type = "runner_failed" if failed else "cancelled"
    assert value(metrics, DURATION, error_type=error_type) == 4.0
    assert (waiting(metrics, "high"), running(metrics)) == (0, 0)
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_count") == 0
    wait = value(metrics, "llm_serving_engine_queue_seconds_sum", priority="high")
    assert wait == (1.0 if admitted else 4.0)


def test_refusals(metrics: Metrics, observer: ModelObserver) -> None:
    observer.refused(Request("r", (1,), 1), errors.LimitReached("queue.requests", "full", 1.0))
    metrics.refused("", UnknownModel("x", ("m",)))
    assert requests(metrics, "refused") == 1
    assert value(metrics, "llm_serving_engine_errors_total", error="limit_reached") == 1
    refusals = "llm_serving_engine_refusals_total"
    assert value(metrics, refusals, reason="queue.requests") == 1
    late = errors.DeadlinePassed(errors.DeadlinePassed.DEADLINE_UNREACHABLE, "too late")
    observer.refused(Request("r", (1,), 1), late)
    assert value(metrics, refusals, reason="deadline_unreachable") == 1
    unknown = {"model": "", "error": "unknown_model"}
    name = "llm_serving_engine_errors_total"
    assert metrics.registry.get_sample_value(name, unknown) == 1


def test_steps(metrics: Metrics, observer: ModelObserver) -> None:
    Course(observer, 0.0).to(Event.ADMIT, 0.0).to(Event.FIRST_TOKEN, 1.0).token(1.0).token(2.0)
    rows = tuple(Run(slot, slot, 9, (1,)) for slot in (0, 1, 3))
    observer.stepped(Step(1, runs=rows), StepResult(1, seconds=0.125, operation_seconds=0.125))
    chunk = Run(9, 2, 0, (1, 2, 3))
    observer.stepped(Step(2, runs=(chunk,)), StepResult(2, seconds=0.5, threads=2))
    assert value(metrics, "llm_serving_engine_step_seconds_sum") == 0.75
    assert value(metrics, "llm_serving_engine_step_decode_rows_sum") == 3
    assert value(metrics, "llm_serving_engine_step_decode_runs_sum") == 2
    assert value(metrics, "llm_serving_engine_step_prefill_tokens_sum") == 3
    assert value(metrics, "llm_serving_engine_step_threads") == 2
    # While the request still runs.
    assert value(metrics, "llm_serving_engine_completion_tokens_total") == 2


def tenant_tokens(metrics: Metrics, tenant: str) -> tuple[float | None, float | None]:
    prompt, completion = (
        value(metrics, "llm_serving_engine_tenant_tokens_total", tenant=tenant, kind=kind)
        for kind in ("prompt", "completion")
    )
    return prompt, completion


def test_tokens_by_tenant(metrics: Metrics, observer: ModelObserver) -> None:
    for tenant, tokens in (("acme", 2), ("zoo", 1), ("acme", 1)):
        course = Course(observer, 0.0, tenant=tenant)
        course.to(Event.ADMIT, 0.0).to(Event.FIRST_TOKEN, 1.0)
        for _ in range(tokens):
            course.token(1.0)
        course.to(Event.CANCEL, 2.0)
    assert tenant_tokens(metrics, "acme") == (10, 3)
    assert tenant_tokens(metrics, "zoo") == (5, 1)


def test_tenants_cannot_make_up_labels_without_a_limit(
    metrics: Metrics, observer: ModelObserver
) -> None:
    for number in range(TENANTS_MAX + 5):
        course = Course(observer, 0.0, tenant=f"t{number}")
        course.to(Event.ADMIT, 0.0).to(Event.FIRST_TOKEN, 1.0).to(Event.CANCEL, 2.0)
    assert tenant_tokens(metrics, f"t{TENANTS_MAX - 1}") == (5, 0)
    assert tenant_tokens(metrics, f"t{TENANTS_MAX}") == (None, None)
    assert tenant_tokens(metrics, "other") == (25, 0)


def test_what_only_the_scheduler_knows(metrics: Metrics) -> None:
    loaded: list[Scheduler] = []
    metrics.watch_scheduler("m", lambda: loaded[0] if loaded else None)
    names = ("preemptions_total", "moves_total", "prefix_hits_total", "cached_tokens")

    def read() -> list[float | None]:
        return [value(metrics, f"llm_serving_engine_{name}") for name in names]

    assert read() == [None, None, None, None]
    scheduler = Scheduler(Capabilities(2, 16))
    loaded.append(scheduler)
    assert read() == [0, 0, 0, 0]
    scheduler.totals.preemptions, scheduler.totals.moves, scheduler.totals.prefix_hits = 1, 2, 3
    scheduler.cache.slots[1].usable = 4
    assert read() == [1, 2, 3, 4]


def test_the_memory_of_saved_caches(metrics: Metrics) -> None:
    scheduler = Scheduler(Capabilities(1, 64, snapshots=True, token_bytes=10))
    metrics.watch_scheduler("m", lambda: scheduler)
    name = "llm_serving_engine_saved_cache_bytes"
    assert value(metrics, name) == 0
    scheduler.cache.snapshots[1] = Snapshot(
        1, Sequence(Request("", (1,), 1), 1, []), 7, last_used=0.0
    )
    assert value(metrics, name) == 70


def test_model_gauges(metrics: Metrics, observer: ModelObserver) -> None:
    memory = 100.0
    metrics.processes.watch_memory("m", lambda: memory, limit=300)
    metrics.set_model_ready("m", True)
    assert value(metrics, "llm_serving_engine_model_ready") == 1
    assert value(metrics, "llm_serving_engine_runner_memory_bytes") == 100
    assert value(metrics, "llm_serving_engine_sequences_max") == 4
    memory = 200.0
    metrics.set_model_ready("m", False)
    assert value(metrics, "llm_serving_engine_model_ready") == 0
    assert value(metrics, "llm_serving_engine_runner_memory_bytes") == 200


def test_servers_do_not_share_a_registry(metrics: Metrics, observer: ModelObserver) -> None:
    Course(observer, at=0.0)
    other = Metrics()
    other.observer("m", sequences_max=1)
    assert (waiting(metrics), waiting(other)) == (1, 0)
