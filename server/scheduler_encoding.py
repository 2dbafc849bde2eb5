"""Encodes the scheduler's parts as messages of the operations service."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from llm_serving_engine.scheduler.core import Scheduler
from llm_serving_engine.scheduler.events import Totals
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.policy import Policy
from llm_serving_engine.scheduler.request import Priority
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.slots import Slot, count_groups
from llm_serving_engine.scheduler.step import Copy, Restore, Save, Step, StepResult
from llm_serving_engine.server.encoding import encode_seconds
from llm_serving_engine.server.latencies import Latency, Percentiles
from llm_serving_engine.server.tenant_tokens import TenantTokens
from llm_serving_engine.v1 import generation_pb2, operations_pb2

TENANTS_SHOWN_MAX = 100
HIGHEST_FIRST = tuple(sorted(Priority, reverse=True))
PRIORITIES = {
    Priority.LOW: generation_pb2.PRIORITY_LOW,
    Priority.NORMAL: generation_pb2.PRIORITY_NORMAL,
    Priority.HIGH: generation_pb2.PRIORITY_HIGH,
    Priority.CRITICAL: generation_pb2.PRIORITY_CRITICAL,
}


def encode_queues(scheduler: Scheduler) -> list[operations_pb2.QueueState]:
    """One entry per class, highest first."""
    return [
        operations_pb2.QueueState(
            priority=PRIORITIES[priority],
            requests=scheduler.queue.classes[priority].requests,
            tokens=scheduler.queue.classes[priority].tokens,
        )
        for priority in HIGHEST_FIRST
    ]


def encode_slots(scheduler: Scheduler) -> list[operations_pb2.Slot]:
    """Encode all slots, with their tokens after the steps in flight."""
    outlook = scheduler.cache.outlook
    return [_slot(slot, outlook.position(slot.index)) for slot in scheduler.cache.slots]


def _slot(slot: Slot, tokens: int) -> operations_pb2.Slot:
    if slot.sequence is not None:
        return _held_slot(slot, slot.sequence, tokens)
    if slot.retained is None:
        return operations_pb2.Slot(index=slot.index, state=operations_pb2.SLOT_STATE_FREE)
    return operations_pb2.Slot(
        index=slot.index,
        state=operations_pb2.SLOT_STATE_CACHED,
        tenant=slot.retained.request.tenant,
        tokens=slot.usable,
    )


def encode_tenants(
    scheduler: Scheduler, tokens: TenantTokens
) -> tuple[list[operations_pb2.TenantState], int]:
    """The tenants that are here or were, and how many live ones were left out."""
    live: defaultdict[str, list[Sequence]] = defaultdict(list)
    for sequence in scheduler.live():
        live[sequence.request.tenant].append(sequence)
    loads = scheduler.queue.tenants
    most_first = sorted(live, key=lambda t: (-loads[t].tokens if t in loads else 0, t))
    gone = (tenant for tenant in tokens.latest() if tenant not in live)
    shown = [*most_first, *gone][:TENANTS_SHOWN_MAX]
    service = _service(scheduler.policy)
    states = [
        operations_pb2.TenantState(
            tenant=tenant,
            queues=_queues_of(live.get(tenant, ())),
            running=sum(sequence.state.running for sequence in live.get(tenant, ())),
            service=service.get(tenant),
            prompt_tokens=had.prompt,
            completion_tokens=had.completion,
        )
        for tenant in shown
        for had in [tokens.of(tenant, live.get(tenant, ()))]
    ]
    return states, max(len(live) - TENANTS_SHOWN_MAX, 0)


def encode_step(
    number: int, step: Step, result: StepResult, scheduler: Scheduler
) -> operations_pb2.StepState:
    """Encode a step's contents, its duration, and the predicted one."""
    kinds = [type(operation) for operation in step.operations]
    rows = [run.slot for run in step.runs] if step.rows else []
    cost = scheduler.cost
    predicted = cost.predict(result.shape or step.shape) + cost.operations(step.operations)
    return operations_pb2.StepState(
        number=number,
        decode_rows=len(rows),
        prefill_tokens=step.prompt_tokens,
        duration=encode_seconds(result.seconds + result.operation_seconds),
        decode_runs=count_groups(rows),
        prefill_chunks=len(step.runs) - len(rows),
        copies=kinds.count(Copy),
        saves=kinds.count(Save),
        restores=kinds.count(Restore),
        predicted=encode_seconds(predicted),
        target=encode_seconds(scheduler.step_target),
    )


def encode_totals(totals: Totals) -> operations_pb2.SchedulerTotals:
    """Encode the scheduler's totals."""
    return operations_pb2.SchedulerTotals(
        preemptions=totals.preemptions,
        saves=totals.saves,
        moves=totals.moves,
        prefix_hits=totals.prefix_hits,
        prefix_tokens=totals.prefix_tokens,
    )


def encode_latencies(latencies: Iterable[Latency]) -> list[operations_pb2.LatencyState]:
    """One entry for each."""
    return [
        operations_pb2.LatencyState(
            priority=generation_pb2.PRIORITY_UNSPECIFIED
            if latency.priority is None
            else PRIORITIES[latency.priority],
            requests=latency.requests,
            time_to_first_token=_percentiles(latency.first_token),
            time_per_output_token=_percentiles(latency.output_token),
        )
        for latency in latencies
    ]


def _held_slot(slot: Slot, holder: Sequence, tokens: int) -> operations_pb2.Slot:
    # Its cache is being copied or restored: the runner has not said that it is there.
    restoring = slot.length < slot.usable
    if holder.state is State.DECODE:
        state = operations_pb2.SLOT_STATE_DECODE
    elif restoring:
        state = operations_pb2.SLOT_STATE_SHARING
    else:
        state = operations_pb2.SLOT_STATE_PREFILL
    return operations_pb2.Slot(
        index=slot.index,
        state=state,
        request_id=holder.request.id,
        priority=PRIORITIES[holder.request.priority],
        tokens=tokens,
        completion_tokens=len(holder.output),
        tenant=holder.request.tenant,
        prompt_tokens=len(holder.request.prompt),
        cached_prompt_tokens=holder.cached_prompt_tokens or 0,
        max_tokens=holder.request.max_tokens,
        sharing_tokens=slot.usable if restoring else 0,
    )


def _queues_of(live: Iterable[Sequence]) -> Iterator[operations_pb2.QueueState]:
    waiting = [sequence.request for sequence in live if sequence.state is State.WAITING]
    for priority in HIGHEST_FIRST:
        tokens = [request.tokens for request in waiting if request.priority is priority]
        if tokens:
            yield operations_pb2.QueueState(
                priority=PRIORITIES[priority], requests=len(tokens), tokens=sum(tokens)
            )


def _service(policy: Policy) -> dict[str, float]:
    """Return each active tenant's lead in service, if the policy counts it."""
    active = policy.service()
    least = min(active.values(), default=0.0)
    return {tenant: service - least for tenant, service in active.items()}


def _percentiles(percentiles: Percentiles | None) -> operations_pb2.Percentiles | None:
    if percentiles is None:
        return None
    return operations_pb2.Percentiles(
        p50=encode_seconds(percentiles.p50),
        p95=encode_seconds(percentiles.p95),
        p99=encode_seconds(percentiles.p99),
    )
