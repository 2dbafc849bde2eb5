"""Explains a request's duration in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from llm_serving_engine.scheduler.lifecycle import Event, State
from llm_serving_engine.scheduler.request import FinishReason
from llm_serving_engine.server.request_history.request_record import RequestRecord, Stage, Visit

# Shorter waits are reported as none.
AT_ONCE_SECONDS = 0.02
_FINISHES = {
    FinishReason.END_OF_SEQUENCE: "the model ended its answer",
    FinishReason.STOP_SEQUENCE: "a stop sequence appeared",
    FinishReason.MAX_TOKENS: "it reached max_tokens",
    FinishReason.CONTEXT_LENGTH: "its context was full",
}


def sentences(record: RequestRecord, now: float) -> list[str]:
    """Describe a request's history in chronological order.

    Args:
        record: The request.
        now: Seconds of the engine's clock.
    """
    return [_asked(record), *_happened(record, now), _outcome(record, now)]


def _asked(record: RequestRecord) -> str:
    whose = f" of tenant {record.tenant}" if record.tenant else ""
    return (
        f"It is a request{whose} in class {record.priority.name.lower()}, with "
        f"{_count(record.prompt_tokens, 'prompt token')} and at most {record.max_tokens} "
        "to produce."
    )


def _happened(record: RequestRecord, now: float) -> Iterator[str]:
    for visit in record.visits(now):
        if visit.stage.state is State.WAITING:
            yield from _waited(record, visit)
        elif visit.stage.state is State.PREFILL:
            yield from _prefilled(record, visit)
        elif visit.tokens or visit.lasts:
            yield _decoded(visit)


def _waited(record: RequestRecord, visit: Visit) -> Iterator[str]:
    stage, seconds = visit.stage, visit.seconds
    verb = "It has waited" if visit.lasts else "It waited"
    again = verb[0].lower() + verb[1:]
    if stage.event is Event.PREEMPT:
        taker = stage.taken_by
        by = "another request" if taker is None else _named(taker)
        yield f"Its slot went to {by}; {again} {_seconds(seconds)} for another."
    elif stage.event is Event.LOSE:
        yield f"Its runner was lost; {again} {_seconds(seconds)} for another runner."
    elif seconds < AT_ONCE_SECONDS and not visit.lasts:
        yield "It got a slot at once."
    else:
        yield f"{verb} {_seconds(seconds)} in the queue: {_queue(record)}."
        yield from _tenants(record)
    yield from _deferred(record, visit)


def _queue(record: RequestRecord) -> str:
    ahead = record.ahead
    slots = f"{ahead.held} of {ahead.slots} slots were held"
    waiting = []
    if ahead.higher:
        waiting.append(f"{_count(ahead.higher, 'request')} of higher classes")
    if ahead.same:
        waiting.append(f"{ahead.same} of its own class")
    if not waiting:
        return f"when it arrived, {slots}, and no request was ahead of it"
    return f"when it arrived, {slots}, and {' and '.join(waiting)} waited"


def _tenants(record: RequestRecord) -> Iterator[str]:
    ahead = record.ahead
    if ahead.tenants > 1 and ahead.own_tenant:
        yield (
            f"Of the waiting requests, {ahead.own_tenant} belonged to its own tenant, and "
            f"{_count(ahead.tenants, 'tenant')} shared the slots."
        )


def _deferred(record: RequestRecord, visit: Visit) -> Iterator[str]:
    stage = visit.stage
    for deferral in record.deferrals:
        if stage.at <= deferral.at <= stage.at + visit.seconds:
            yield (
                f"From {_seconds(deferral.at - stage.at)} on it was deferred to request "
                f"{deferral.donor}, which computed {_count(deferral.tokens, 'token')} that both "
                "prompts begin with."
            )


def _prefilled(record: RequestRecord, visit: Visit) -> Iterator[str]:
    stage = visit.stage
    where = "" if stage.slot is None else f" in slot {stage.slot}"
    if stage.restored_at is not None:
        yield _restored(stage, stage.restored_at - stage.at, visit.seconds)
    first = next(one for one in record.stages if one.state is State.PREFILL) is stage
    if first and record.cached_tokens is not None:
        found = f"{record.cached_tokens} of its {record.prompt_tokens}"
        yield f"{found if record.cached_tokens else 'None of its'} prompt tokens were in the cache."
    begun = "Its prompt was" if first else "The rest of its prompt was"
    yield f"{begun} computed{where} in {_seconds(visit.seconds)}."


def _restored(stage: Stage, seconds: float, whole: float) -> str:
    source = "copied from another slot" if stage.copied else "restored from memory"
    target = "" if stage.slot is None else f" to slot {stage.slot}"
    # With all of the prompt in the same step, the time is said with the computing.
    took = f", in {_seconds(seconds)}" if seconds < whole else ""
    return f"A cache of {_count(stage.restored_tokens, 'token')} was {source}{target}{took}."


def _decoded(visit: Visit) -> str:
    tokens, seconds = visit.tokens, visit.seconds
    rate = f" ({tokens / seconds:.1f} per second)" if tokens > 1 and seconds > 0 else ""
    # The first tokens came with the prompt.
    return f"It produced {_count(tokens, 'more token')} in {_seconds(seconds)}{rate}."


def _outcome(record: RequestRecord, now: float) -> str:
    last = record.stages[-1]
    if not last.state.ended:
        return (
            f"It is in state {last.state.value}, {_seconds(now - record.began_at)} after arrival."
        )
    total = _seconds(last.at - record.began_at)
    if last.state is State.FINISHED:
        why = "" if record.finish_reason is None else f": {_FINISHES[record.finish_reason]}"
        return f"It finished after {total}, with {_count(record.output_tokens, 'token')}{why}."
    because = f": {record.error}" if record.error else ""
    return f"It {_ENDS[last.state]} after {total}{because}."


_ENDS = {
    State.CANCELLED: "was cancelled",
    State.EXPIRED: "ran out of time",
    State.FAILED: "failed",
}


def _named(record: RequestRecord) -> str:
    return f"request {record.request_id} of class {record.priority.name.lower()}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _seconds(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
