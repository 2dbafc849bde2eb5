"""Encodes domain objects as wire messages."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from llm_serving_engine.scheduler.request import FinishReason
from llm_serving_engine.scheduler.step import Capabilities, Output
from llm_serving_engine.server.default_sampling import scalars
from llm_serving_engine.server.events import (
    Answer,
    Delta,
    Event,
    PositionLogprobs,
    Started,
    Timings,
    TokenLogprob,
    Usage,
)
from llm_serving_engine.server.model import ModelState, ServedModel
from llm_serving_engine.server.service.inference import Tokenized
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


def encode_event(event: Event) -> inference_pb2.StreamResponse:
    """An event of a stream."""
    if isinstance(event, Delta):
        return _encode_delta(event)
    if isinstance(event, Started):
        return inference_pb2.StreamResponse(
            started=inference_pb2.StreamResponse.Started(
                request_id=event.request_id,
                model=event.model,
                prompt_tokens=event.prompt_tokens,
                cached_prompt_tokens=event.cached_prompt_tokens,
            )
        )
    return inference_pb2.StreamResponse(
        finished=inference_pb2.StreamResponse.Finished(
            finish_reason=FINISH_REASONS[event.finish_reason],
            usage=encode_usage(event.usage),
            timings=encode_timings(event.timings),
        )
    )


def _encode_delta(delta: Delta) -> inference_pb2.StreamResponse:
    event = inference_pb2.StreamResponse()
    # Field by field, which takes a quarter of the time: there is one for each token.
    message = event.delta
    message.text = delta.text
    message.token_ids.extend(delta.tokens)
    if delta.reasoning:
        message.reasoning = delta.reasoning
    if delta.logprobs:
        message.logprobs.extend(map(encode_logprobs, delta.logprobs))
    return event


def encode_answer(answer: Answer) -> inference_pb2.GenerateResponse:
    """The whole answer."""
    finished = answer.finished
    return inference_pb2.GenerateResponse(
        request_id=answer.started.request_id,
        model=answer.started.model,
        text=answer.text,
        reasoning=answer.reasoning,
        token_ids=answer.tokens,
        logprobs=map(encode_logprobs, answer.logprobs),
        finish_reason=FINISH_REASONS[finished.finish_reason],
        usage=encode_usage(finished.usage),
        timings=encode_timings(finished.timings),
    )


def encode_tokens(tokenized: Tokenized) -> inference_pb2.TokenizeResponse:
    """A text's tokens."""
    return inference_pb2.TokenizeResponse(
        model=tokenized.model, token_ids=tokenized.tokens, tokens=tokenized.names
    )


def encode_logprobs(position: PositionLogprobs) -> generation_pb2.PositionLogprobs:
    """The log-probabilities at one position."""

    def one(token: TokenLogprob) -> generation_pb2.TokenLogprob:
        return generation_pb2.TokenLogprob(
            token_id=token.token, token=token.name, logprob=token.logprob
        )

    return generation_pb2.PositionLogprobs(chosen=one(position.chosen), top=map(one, position.top))


def encode_usage(usage: Usage) -> generation_pb2.Usage:
    """Tokens consumed."""
    return generation_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_prompt_tokens=usage.cached_prompt_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def encode_timings(timings: Timings) -> generation_pb2.Timings:
    """Encode a request's times."""
    first = timings.time_to_first_token
    return generation_pb2.Timings(
        queue=encode_seconds(timings.queue),
        prefill=encode_seconds(timings.prefill),
        decode=encode_seconds(timings.decode),
        time_to_first_token=None if first is None else encode_seconds(first),
    )


def encode_seconds(seconds: float) -> Duration:
    """A duration, to the nanosecond."""
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def encode_model(model: ServedModel, is_default: bool) -> models_pb2.Model:
    """Encode the description of a model."""
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
    if (report := model.report) is not None:
        message.settings.update(report.settings)
        message.notes.extend(report.notes)
    if (engine := model.loaded_engine) is not None:
        message.capabilities.CopyFrom(_encode_capabilities(engine.scheduler.capabilities))
        message.settings["determinism"] = engine.scheduler.config.determinism
        message.settings["step_target_seconds"] = f"{engine.scheduler.step_target:.3g}"
        message.capabilities.chat = model.text.chat_template is not None
        defaults = generation_pb2.Sampling(**scalars(model.default_sampling))
        message.default_sampling.CopyFrom(defaults)
    return message


def _encode_capabilities(capabilities: Capabilities) -> models_pb2.Capabilities:
    return models_pb2.Capabilities(
        sequences_max=capabilities.slots,
        context_per_sequence=capabilities.context,
        logprobs=Output.LOGPROBS in capabilities.outputs,
        partial_clear=capabilities.rollback is None,
        prefix_copy=capabilities.copy,
        save_restore=capabilities.snapshots,
        batch_invariant=capabilities.batch_invariant,
    )
