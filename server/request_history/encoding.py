"""Encodes a request's history as wire messages."""

from __future__ import annotations

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.server.encoding import encode_seconds
from llm_serving_engine.server.request_history.request_record import RequestRecord, Stage
from llm_serving_engine.server.request_history.sentences import sentences
from llm_serving_engine.server.scheduler_encoding import PRIORITIES
from llm_serving_engine.v1 import operations_pb2

STATES = {
    State.WAITING: operations_pb2.REQUEST_STATE_WAITING,
    State.PREFILL: operations_pb2.REQUEST_STATE_PREFILL,
    State.DECODE: operations_pb2.REQUEST_STATE_DECODE,
    State.FINISHED: operations_pb2.REQUEST_STATE_FINISHED,
    State.CANCELLED: operations_pb2.REQUEST_STATE_CANCELLED,
    State.EXPIRED: operations_pb2.REQUEST_STATE_EXPIRED,
    State.FAILED: operations_pb2.REQUEST_STATE_FAILED,
}


def encode_explanation(
    record: RequestRecord, model: str, now: float
) -> operations_pb2.RequestExplanation:
    """Encode a request's history.

    Args:
        record: The request.
        model: Its model's name.
        now: Seconds of the engine's clock.
    """
    message = operations_pb2.RequestExplanation(
        request_id=record.request_id,
        model=model,
        priority=PRIORITIES[record.priority],
        tenant=record.tenant,
        prompt_tokens=record.prompt_tokens,
        cached_prompt_tokens=record.cached_tokens,
        completion_tokens=record.output_tokens,
        max_tokens=record.max_tokens,
        stages=[_stage(stage, record.began_at) for stage in record.stages],
        sentences=sentences(record, now),
    )
    message.arrived.FromNanoseconds(round(record.arrived * 1e9))
    return message


def _stage(stage: Stage, began_at: float) -> operations_pb2.RequestStage:
    return operations_pb2.RequestStage(
        state=STATES[stage.state],
        event=stage.event.value,
        start=encode_seconds(stage.at - began_at),
        slot=stage.slot,
        completion_tokens=stage.output_tokens,
        taken_by="" if stage.taken_by is None else stage.taken_by.request_id,
        restored_tokens=stage.restored_tokens,
    )
