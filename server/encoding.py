"""From the domain to the wire."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from llm_serving_engine.backends.text.tokenizer import Tokenizer
from llm_serving_engine.scheduler.events import Produced
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.request import FinishReason
from llm_serving_engine.scheduler.sequence import Sequence
from llm_serving_engine.scheduler.step import Capabilities
from llm_serving_engine.server.generation import Delta, Generation
from llm_serving_engine.server.model import ModelState, ServedModel
from llm_serving_engine.v1 import generation_pb2, inference_pb2, models_pb2

FINISH_REASONS = {
    FinishReason.END_OF_SEQUENCE: generation_pb2.FINISH_REASON_END_OF_SEQUENCE,
    FinishReason.STOP_SEQUENCE: generation_pb2.FINISH_REASON_STOP_SEQUENCE,
    FinishReason.MAX_TOKENS: generation_pb2.FINISH_REASON_MAX_TOKENS,
    FinishReason.CONTEXT_LENGTH: generation_pb2.FINISH_REASON_CONTEXT_LENGTH,
}

MODEL_STATES = {
    ModelState.LOADING: models_pb2.MODEL_STATE_LOADING,
    ModelState.READY: models_pb2.MODEL_STATE_READY,
    ModelState.FAILED: models_pb2.MODEL_STATE_FAILED,
    ModelState.DRAINING: models_pb2.MODEL_STATE_DRAINING,
}


def started_event(generation: Generation, model: ServedModel) -> inference_pb2.StreamResponse:
    """The first event of a stream."""
    return inference_pb2.StreamResponse(
        started=inference_pb2.StreamResponse.Started(
            request_id=generation.call.request_id,
            model=model.name,
            prompt_tokens=len(generation.call.request.prompt),
            cached_prompt_tokens=generation.course.cached_prompt_tokens,
        )
    )


def delta_event(delta: Delta, tokenizer: Tokenizer) -> inference_pb2.StreamResponse:
    """An event with more output."""
    event = inference_pb2.StreamResponse()
    # Field by field, which takes a quarter of the time: there is one for each token.
    message = event.delta
    message.text = delta.text
    message.token_ids.extend([produced.token for produced in delta.tokens])
    if delta.tokens and delta.tokens[0].logprobs is not None:
        message.logprobs.extend(encode_logprobs(delta.tokens, tokenizer))
    return event


def finished_event(generation: Generation) -> inference_pb2.StreamResponse:
    """The last event of a stream."""
    return inference_pb2.StreamResponse(
        finished=inference_pb2.StreamResponse.Finished(
            finish_reason=FINISH_REASONS[generation.finish_reason],
            usage=encode_usage(generation),
            timings=encode_timings(generation.course),
        )
    )


def encode_answer(
    generation: Generation, model: ServedModel, deltas: list[Delta]
) -> inference_pb2.GenerateResponse:
    """The whole answer, from all of its deltas."""
    tokens = [produced for delta in deltas for produced in delta.tokens]
    return inference_pb2.GenerateResponse(
        request_id=generation.call.request_id,
        model=model.name,
        text="".join(delta.text for delta in deltas),
        token_ids=[produced.token for produced in tokens],
        logprobs=encode_logprobs(tokens, model.tokenizer),
        finish_reason=FINISH_REASONS[generation.finish_reason],
        usage=encode_usage(generation),
        timings=encode_timings(generation.course),
    )


def encode_logprobs(
    tokens: Iterable[Produced], tokenizer: Tokenizer
) -> list[generation_pb2.PositionLogprobs]:
    """One entry per token that carries log-probabilities."""

    def one(token: int, logprob: float) -> generation_pb2.TokenLogprob:
        return generation_pb2.TokenLogprob(
            token_id=token, token=tokenizer.name(token), logprob=logprob
        )

    return [
        generation_pb2.PositionLogprobs(
            chosen=one(produced.token, produced.logprobs.chosen),
            top=[one(token, logprob) for token, logprob in produced.logprobs.top],
        )
        for produced in tokens
        if produced.logprobs is not None
    ]


def encode_usage(generation: Generation) -> generation_pb2.Usage:
    """Tokens consumed."""
    return generation_pb2.Usage(
        prompt_tokens=len(generation.call.request.prompt),
        cached_prompt_tokens=generation.course.cached_prompt_tokens,
        completion_tokens=generation.completion_tokens,
    )


def encode_timings(course: Sequence) -> generation_pb2.Timings:
    """Where the time of a request went."""
    first = course.first_token_at
    return generation_pb2.Timings(
        queue=encode_seconds(course.seconds_in(State.WAITING)),
        prefill=encode_seconds(course.seconds_in(State.PREFILL)),
        decode=encode_seconds(course.seconds_in(State.DECODE)),
        time_to_first_token=None if first is None else encode_seconds(first - course.arrived_at),
    )


def encode_seconds(seconds: float) -> Duration:
    """A duration, to the nanosecond."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def encode_model(model: ServedModel, is_default: bool) -> models_pb2.Model:
    """What there is to know of a model."""
    message = models_pb2.Model(
        name=model.name,
        backend=model.backend,
        state=MODEL_STATES[model.state],
        state_reason=model.state_reason,
        memory_bytes=model.runner_memory_bytes,
        is_default=is_default,
    )
    if (info := model.info) is not None:
        message.architecture = info.architecture
        message.description = info.description
        message.parameter_count = info.parameter_count
        message.quantization = info.quantization
        message.vocabulary_size = info.vocabulary_size
        message.training_context = info.training_context
    if (engine := model.loaded_engine) is not None:
        message.capabilities.CopyFrom(_encode_capabilities(engine.scheduler.capabilities))
        message.capabilities.chat = model.chat_template is not None
    return message


def _encode_capabilities(capabilities: Capabilities) -> models_pb2.Capabilities:
    return models_pb2.Capabilities(
        sequences_max=capabilities.sequences_max,
        context_per_sequence=capabilities.context_per_sequence,
        logprobs=capabilities.logprobs,
        partial_clear=capabilities.partial_clear,
        prefix_copy=capabilities.prefix_copy,
        save_restore=capabilities.save_restore,
        grammar=capabilities.grammar,
        batch_invariant=capabilities.batch_invariant,
    )
