"""What the operations service shows, of a scheduler that is driven by hand."""

from __future__ import annotations

import pytest

from llm_serving_engine.scheduler.config import SchedulerConfig
from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.errors import RequestError
from llm_serving_engine.scheduler.events import Moved
from llm_serving_engine.scheduler.request import Priority, Request
from llm_serving_engine.scheduler.step import Capabilities, Output, RunResult, Step, StepResult
from llm_serving_engine.server.latencies import Latencies, percentiles
from llm_serving_engine.server.scheduler_encoding import PRIORITIES, TENANTS_SHOWN_MAX
from llm_serving_engine.server.scheduler_view import SchedulerView
from llm_serving_engine.server.tenant_tokens import TENANTS_MAX
from llm_serving_engine.v1 import generation_pb2, operations_pb2

END = 999
PREFIX = tuple(range(40))


class Driven:
    """A scheduler, its view, and a clock; a step takes a tenth of a second."""

    def __init__(self, slots: int = 2, **config) -> None:
        self.now = 100.0
        capabilities = Capabilities(slots, 256, snapshots=True, token_bytes=10)
        self.scheduler = Scheduler(capabilities, SchedulerConfig(**config))
        self.view = SchedulerView(clock=lambda: self.now)

    def submit(self, name: str, prompt: tuple[int, ...] = (1, 2, 3), **fields) -> None:
        fields = {"max_tokens": 5, **fields}
        request = Request(name, prompt, stop_tokens=frozenset({END}), **fields)
        try:
            self.scheduler.submit(request, self.now)
        except RequestError as error:
            self.view.refused(request, error)
        self._publish()

    def begin(self) -> Step:
        step = self.scheduler.schedule(self.now)
        assert step is not None
        self._publish()
        return step

    def end(self, step: Step, token: int = 7) -> None:
        runs = (
            RunResult(run.key, len(run.tokens), (token,) if run.output & Output.SAMPLE else ())
            for run in step.runs
        )
        result = StepResult(step.number, runs=tuple(runs), seconds=0.1)
        self.now += 0.1
        self.scheduler.apply(result, self.now)
        self.view.stepped(step, result)
        self._publish()

    def step(self, times: int = 1, token: int = 7) -> None:
        for _ in range(times):
            self.end(self.begin(), token)

    def cancel(self, name: str) -> None:
        self.scheduler.cancel(self._key(name), self.now)
        self._publish()

    def finish(self, name: str, output_tokens: int) -> None:
        self.scheduler.finish(self._key(name), self.now, output_tokens)
        self._publish()

    def _key(self, name: str) -> int:
        (key,) = (s.key for s in self.scheduler.live() if s.request.id == name)
        return key

    @property
    def state(self) -> operations_pb2.SchedulerState:
        return self.view.read_scheduler(self.scheduler)

    def tenant(self, name: str) -> operations_pb2.TenantState:
        (found,) = (tenant for tenant in self.state.tenants if tenant.tenant == name)
        return found

    def slot_states(self) -> list[str]:
        name = operations_pb2.SlotState.Name
        return [name(slot.state).removeprefix("SLOT_STATE_") for slot in self.state.slots]

    def _publish(self) -> None:
        for event in self.scheduler.take_events():
            if isinstance(event, Moved) and event.transition is event.sequence.history[-1]:
                self.view.transitioned(event.sequence)


def queue(priority: Priority, requests: int, tokens: int) -> operations_pb2.QueueState:
    return operations_pb2.QueueState(
        priority=PRIORITIES[priority], requests=requests, tokens=tokens
    )


def seconds(percentiles: operations_pb2.Percentiles) -> list[float]:
    """The three, in the order of their rank."""
    times = (percentiles.p50, percentiles.p95, percentiles.p99)
    return [round(time.ToTimedelta().total_seconds(), 6) for time in times]


def test_the_queue_by_class_and_tenant() -> None:
    driven = Driven(slots=1)
    driven.submit("r1", tenant="acme")
    driven.step()
    driven.submit("r2", tenant="acme")
    driven.submit("r3", tenant="zoo", priority=Priority.LOW)
    driven.submit("r4", tenant="zoo", priority=Priority.NORMAL, max_tokens=50)
    assert list(driven.state.queues) == [
        queue(Priority.CRITICAL, 0, 0),
        queue(Priority.HIGH, 0, 0),
        queue(Priority.NORMAL, 2, 8 + 53),
        queue(Priority.LOW, 1, 8),
    ]
    first, second = driven.state.tenants
    assert (first.tenant, second.tenant) == ("zoo", "acme")  # who waits for most
    assert list(first.queues) == [queue(Priority.NORMAL, 1, 53), queue(Priority.LOW, 1, 8)]
    assert list(second.queues) == [queue(Priority.NORMAL, 1, 8)]
    assert (first.running, second.running) == (0, 1)


def test_service_is_told_from_the_least_active_tenant_on() -> None:
    driven = Driven(slots=2)
    driven.submit("r1", (1,) * 10, tenant="acme", max_tokens=50)
    driven.submit("r2", (2,) * 4, tenant="zoo", max_tokens=50)
    driven.step(3)  # two prompts, and a row of each
    # 10 and 4 prompt tokens, and 2 of output each.
    assert (driven.tenant("acme").service, driven.tenant("zoo").service) == (6, 0)
    driven.cancel("r2")
    assert driven.tenant("acme").service == 0
    assert not driven.tenant("zoo").HasField("service")


def test_a_policy_that_counts_no_service() -> None:
    driven = Driven(policy="first_come")
    driven.submit("r1", tenant="acme")
    assert driven.state.policy == "first_come"
    assert not driven.tenant("acme").HasField("service")


def test_tokens_of_a_tenant_outlive_its_requests() -> None:
    driven = Driven()
    driven.submit("r1", (1,) * 10, tenant="acme", max_tokens=2)
    assert (driven.tenant("acme").prompt_tokens, driven.tenant("acme").completion_tokens) == (0, 0)
    driven.step()
    assert (driven.tenant("acme").prompt_tokens, driven.tenant("acme").completion_tokens) == (10, 1)
    driven.step()
    driven.submit("r2", (2,) * 3, tenant="acme", max_tokens=50)
    driven.step()
    assert (driven.tenant("acme").prompt_tokens, driven.tenant("acme").completion_tokens) == (13, 3)


def test_tenants_are_forgotten_in_the_order_in_which_they_left() -> None:
    driven = Driven()
    for number in range(TENANTS_MAX + 1):
        driven.submit("r", tenant=f"t{number}")
        driven.cancel("r")
    shown = [tenant.tenant for tenant in driven.state.tenants]
    assert shown == [f"t{number}" for number in range(TENANTS_MAX, 0, -1)]


def test_live_tenants_that_find_no_room_are_counted() -> None:
    driven = Driven()
    for number in range(TENANTS_SHOWN_MAX + 3):
        driven.submit(f"r{number}", tenant=f"t{number}")
    assert (len(driven.state.tenants), driven.state.tenants_omitted) == (TENANTS_SHOWN_MAX, 3)


def test_what_a_request_leaves_behind() -> None:
    driven = Driven()
    driven.submit("r1", tenant="acme", max_tokens=2)
    driven.step(2)
    assert list(driven.state.slots) == [
        operations_pb2.Slot(
            index=0, state=operations_pb2.SLOT_STATE_CACHED, tenant="acme", tokens=4
        ),
        operations_pb2.Slot(index=1, state=operations_pb2.SLOT_STATE_FREE),
    ]


def test_a_slot_that_waits_for_a_shared_prefix() -> None:
    driven = Driven()
    driven.submit("r1", (*PREFIX, 50), max_tokens=20)
    driven.submit("r2", (*PREFIX, 60, 61), max_tokens=20)
    computing = driven.begin()
    # The second one is deferred: it waits in the queue, and holds no slot.
    assert driven.slot_states() == ["PREFILL", "FREE"]
    driven.end(computing)
    copying = driven.begin()
    assert driven.slot_states() == ["DECODE", "SHARING"]
    assert [slot.sharing_tokens for slot in driven.state.slots] == [0, 40]
    driven.end(copying)
    assert driven.slot_states() == ["DECODE", "DECODE"]
    assert driven.state.last_step.copies == 1
    assert [slot.cached_prompt_tokens for slot in driven.state.slots] == [0, 40]
    assert [slot.sharing_tokens for slot in driven.state.slots] == [0, 0]
    assert (driven.state.totals.prefix_hits, driven.state.totals.prefix_tokens) == (1, 40)


def test_a_preemption() -> None:
    driven = Driven(slots=1, snapshot_bytes_max=5000, step_target_seconds=0.2)
    driven.submit("r1", (1,) * 60, priority=Priority.LOW, max_tokens=20)
    driven.step(2)
    assert driven.state.saved_cache_bytes == 0
    driven.submit("r2", priority=Priority.HIGH, max_tokens=2)
    driven.step()
    totals, step = driven.state.totals, driven.state.last_step
    assert (totals.preemptions, totals.saves, step.saves, step.restores) == (1, 1, 1, 0)
    assert driven.state.saved_cache_bytes == 10 * (60 + 1)
    assert driven.state.saved_cache_bytes_max == 5000
    driven.step(2)
    assert (driven.state.last_step.saves, driven.state.last_step.restores) == (0, 1)
    assert driven.state.saved_cache_bytes == 0


def test_the_last_step() -> None:
    driven = Driven(slots=5, step_target_seconds=0.5)
    for number in range(4):
        driven.submit(f"r{number}", (number,) * 3, max_tokens=5)
    driven.step(5)
    step = driven.state.last_step
    assert (step.number, step.decode_rows, step.decode_runs, step.prefill_tokens) == (5, 4, 1, 0)
    driven.cancel("r1")
    driven.submit("r4", (9,) * 20, tenant="other", max_tokens=5)
    driven.step()
    step = driven.state.last_step
    assert (step.number, step.prefill_chunks, step.prefill_tokens) == (6, 1, 20)
    assert (step.decode_rows, step.decode_runs) == (0, 0)
    assert step.duration.ToMilliseconds() == 100
    assert step.target.ToMilliseconds() == 500
    assert step.predicted.ToNanoseconds() > 0


def test_rates_are_over_whole_seconds() -> None:
    driven = Driven()
    driven.submit("r1", (1,) * 30, max_tokens=5)
    driven.step(5)
    assert (driven.state.tokens_per_second, driven.state.prefill_tokens_per_second) == (0, 0)
    driven.now += 1
    assert (driven.state.tokens_per_second, driven.state.prefill_tokens_per_second) == (0.5, 3)
    driven.now += 9
    assert driven.state.tokens_per_second == 0.5
    driven.now += 1
    assert (driven.state.tokens_per_second, driven.state.prefill_tokens_per_second) == (0, 0)


def test_refusals_by_reason() -> None:
    driven = Driven(slots=1, queue_requests_max=1, tenant_queue_share=1.0)
    driven.submit("r1", (1,) * 300)
    driven.submit("r2", deadline=driven.now - 1)
    driven.submit("r3")
    driven.submit("r4")
    driven.submit("r5")
    assert driven.state.refusals == {
        "invalid_field": 1,
        "deadline_unreachable": 1,
        "queue.requests": 2,
    }
    assert driven.state.outcomes == {"refused": 4}


def test_latencies_by_class() -> None:
    driven = Driven()
    assert not driven.state.latencies
    driven.submit("r1", priority=Priority.LOW, max_tokens=3)
    driven.step(3)
    driven.submit("r2", priority=Priority.HIGH, max_tokens=1)
    driven.step()
    everybody, high, low = driven.state.latencies
    assert everybody.priority == generation_pb2.PRIORITY_UNSPECIFIED
    assert (everybody.requests, high.requests, low.requests) == (2, 1, 1)
    assert (high.priority, low.priority) == (
        generation_pb2.PRIORITY_HIGH,
        generation_pb2.PRIORITY_LOW,
    )
    assert seconds(low.time_to_first_token) == [0.1, 0.1, 0.1]
    assert seconds(low.time_per_output_token) == [0.1, 0.1, 0.1]
    # One token has no time between tokens.
    assert not high.HasField("time_per_output_token")


def test_requests_that_do_not_finish_have_no_latency() -> None:
    driven = Driven()
    driven.submit("r1")
    driven.step(2)
    driven.cancel("r1")
    assert not driven.state.latencies


def test_an_end_of_sequence_token_takes_its_time() -> None:
    driven = Driven()
    driven.submit("r1")
    driven.step()
    driven.now += 0.1
    driven.step(token=END)
    (latency, _) = driven.state.latencies
    assert seconds(latency.time_per_output_token) == [0.2, 0.2, 0.2]


def test_tokens_that_a_stop_sequence_takes_back_took_their_time() -> None:
    driven = Driven()
    driven.submit("r1")
    driven.step(4)
    driven.finish("r1", 2)
    (latency, _) = driven.state.latencies
    assert seconds(latency.time_per_output_token) == [0.1, 0.1, 0.1]


def test_only_the_last_requests_count() -> None:
    driven = Driven()
    driven.view._latencies = Latencies(requests_max=2)
    driven.submit("slow", max_tokens=1)
    driven.now += 50
    driven.step()
    driven.submit("r1", max_tokens=1)
    driven.step()
    assert seconds(driven.state.latencies[0].time_to_first_token) == [0.1, 50.1, 50.1]
    driven.submit("r2", max_tokens=1)
    driven.step()
    assert driven.state.latencies[0].requests == 2
    assert seconds(driven.state.latencies[0].time_to_first_token) == [0.1, 0.1, 0.1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([3.0], (3, 3, 3)),
        ([2.0, 1.0], (1, 2, 2)),
        ([float(n) for n in range(200, 0, -1)], (100, 190, 198)),
    ],
)
def test_percentiles(values: list[float], expected: tuple[float, ...] | None) -> None:
    assert percentiles(values) == expected


def test_nothing_is_remembered_of_those_that_ended() -> None:
    driven = Driven()
    for number in range(10):
        driven.submit(f"r{number}", max_tokens=2)
    driven.step(2)
    assert driven.view._latencies._produced
    while not driven.scheduler.idle:
        driven.step()
    assert not driven.view._latencies._produced
