"""Converts the scheduler's wire messages to results: pure functions, for both clients."""

from __future__ import annotations

from datetime import timezone
from typing import cast

from google.protobuf.duration_pb2 import Duration

from llm_serving_engine.clients import operations
from llm_serving_engine.clients.conversion import word
from llm_serving_engine.clients.requests import Priority
from llm_serving_engine.v1 import generation_pb2, operations_pb2


def scheduler_state(message: operations_pb2.SchedulerState) -> operations.SchedulerState:
    """One reading of a scheduler."""
    return operations.SchedulerState(
        model=message.model,
        time=message.time.ToDatetime(tzinfo=timezone.utc),
        queues=tuple(map(_queue, message.queues)),
        slots=tuple(map(_slot, message.slots)),
        last_step=_step(message.last_step) if message.HasField("last_step") else None,
        tokens_per_second=message.tokens_per_second,
        outcomes=dict(message.outcomes),
        policy=message.policy,
        determinism=message.determinism,
        tenants=tuple(map(_tenant, message.tenants)),
        tenants_omitted=message.tenants_omitted,
        totals=_totals(message.totals),
        saved_cache_bytes=message.saved_cache_bytes,
        saved_cache_bytes_max=message.saved_cache_bytes_max,
        prefill_tokens_per_second=message.prefill_tokens_per_second,
        latencies=tuple(map(_latency, message.latencies)),
        refusals=dict(message.refusals),
    )


def _queue(message: operations_pb2.QueueState) -> operations.QueueState:
    return operations.QueueState(
        priority=_priority(message.priority), requests=message.requests, tokens=message.tokens
    )


def _tenant(message: operations_pb2.TenantState) -> operations.TenantState:
    return operations.TenantState(
        tenant=message.tenant,
        queues=tuple(map(_queue, message.queues)),
        running=message.running,
        service=message.service if message.HasField("service") else None,
        prompt_tokens=message.prompt_tokens,
        completion_tokens=message.completion_tokens,
    )


def _slot(message: operations_pb2.Slot) -> operations.Slot:
    state = word(operations_pb2.SlotState.DESCRIPTOR, message.state)
    return operations.Slot(
        index=message.index,
        state=cast(operations.SlotActivity, state),
        request_id=message.request_id,
        priority=_priority(message.priority),
        tenant=message.tenant,
        tokens=message.tokens,
        completion_tokens=message.completion_tokens,
        prompt_tokens=message.prompt_tokens,
        cached_prompt_tokens=message.cached_prompt_tokens,
        max_tokens=message.max_tokens,
        sharing_tokens=message.sharing_tokens,
    )


def _step(message: operations_pb2.StepState) -> operations.StepState:
    return operations.StepState(
        number=message.number,
        decode_rows=message.decode_rows,
        decode_runs=message.decode_runs,
        prefill_tokens=message.prefill_tokens,
        prefill_chunks=message.prefill_chunks,
        copies=message.copies,
        saves=message.saves,
        restores=message.restores,
        duration=_seconds(message.duration),
        predicted=_seconds(message.predicted),
        target=_seconds(message.target),
    )


def _totals(message: operations_pb2.SchedulerTotals) -> operations.SchedulerTotals:
    return operations.SchedulerTotals(
        preemptions=message.preemptions,
        saves=message.saves,
        moves=message.moves,
        prefix_hits=message.prefix_hits,
        prefix_tokens=message.prefix_tokens,
    )


def _latency(message: operations_pb2.LatencyState) -> operations.LatencyState:
    everybody = message.priority == generation_pb2.PRIORITY_UNSPECIFIED
    per_token = message.HasField("time_per_output_token")
    return operations.LatencyState(
        priority=None if everybody else _priority(message.priority),
        requests=message.requests,
        time_to_first_token=_percentiles(message.time_to_first_token),
        time_per_output_token=_percentiles(message.time_per_output_token) if per_token else None,
    )


def _percentiles(message: operations_pb2.Percentiles) -> operations.Percentiles:
    return operations.Percentiles(
        _seconds(message.p50), _seconds(message.p95), _seconds(message.p99)
    )


def _seconds(message: Duration) -> float:
    return message.ToTimedelta().total_seconds()


def _priority(number: int) -> Priority:
    name = word(generation_pb2.Priority.DESCRIPTOR, number)
    return cast(Priority, "normal" if name == "unspecified" else name)
