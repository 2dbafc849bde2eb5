"""Converts wire messages to results: pure functions, shared by both clients."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from google.protobuf.descriptor import EnumDescriptor

from llm_serving_engine.clients import catalog, results
from llm_serving_engine.v1 import generation_pb2, inference_pb2, models_pb2


def generation(response: inference_pb2.GenerateResponse) -> results.Generation:
    """A whole answer."""
    return results.Generation(
        request_id=response.request_id,
        model=response.model,
        text=response.text,
        reasoning=response.reasoning,
        token_ids=tuple(response.token_ids),
        logprobs=_logprobs(response.logprobs),
        finish_reason=_finish_reason(response.finish_reason),
        usage=_usage(response.usage),
        timings=_timings(response.timings),
    )


def event(response: inference_pb2.StreamResponse) -> results.Event | None:
    """One event of a stream; None for a kind that this client is too old to know."""
    if response.HasField("started"):
        started = response.started
        return results.Started(
            request_id=started.request_id,
            model=started.model,
            prompt_tokens=started.prompt_tokens,
            cached_prompt_tokens=started.cached_prompt_tokens,
        )
    if response.HasField("delta"):
        delta = response.delta
        logprobs = _logprobs(delta.logprobs)
        return results.Delta(delta.text, tuple(delta.token_ids), logprobs, delta.reasoning)
    if response.HasField("finished"):
        finished = response.finished
        return results.Finished(
            finish_reason=_finish_reason(finished.finish_reason),
            usage=_usage(finished.usage),
            timings=_timings(finished.timings),
        )
    return None


def tokenization(response: inference_pb2.TokenizeResponse) -> results.Tokenization:
    """The tokens of a text."""
    return results.Tokenization(
        model=response.model,
        token_ids=tuple(response.token_ids),
        tokens=tuple(response.tokens),
    )


def model(message: models_pb2.Model) -> catalog.Model:
    """One model."""
    return catalog.Model(
        name=message.name,
        backend=message.backend,
        architecture=message.architecture,
        description=message.description,
        parameter_count=message.parameter_count,
        quantization=message.quantization,
        vocabulary_size=message.vocabulary_size,
        training_context=message.training_context,
        memory_bytes=message.memory_bytes,
        state=cast(catalog.ModelState, word(models_pb2.ModelState.DESCRIPTOR, message.state)),
        state_reason=message.state_reason,
        capabilities=_capabilities(message) if message.HasField("capabilities") else None,
        is_default=message.is_default,
        settings=dict(message.settings),
        notes=tuple(message.notes),
    )


def _capabilities(message: models_pb2.Model) -> catalog.Capabilities:
    capabilities = message.capabilities
    return catalog.Capabilities(
        sequences_max=capabilities.sequences_max,
        context_per_sequence=capabilities.context_per_sequence,
        logprobs=capabilities.logprobs,
        chat=capabilities.chat,
        partial_clear=capabilities.partial_clear,
        prefix_copy=capabilities.prefix_copy,
        save_restore=capabilities.save_restore,
        grammar=capabilities.grammar,
        batch_invariant=capabilities.batch_invariant,
    )


def _logprobs(
    positions: Iterable[generation_pb2.PositionLogprobs],
) -> tuple[results.PositionLogprobs, ...]:
    return tuple(
        results.PositionLogprobs(
            chosen=_token_logprob(position.chosen),
            top=tuple(map(_token_logprob, position.top)),
        )
        for position in positions
    )


def _token_logprob(message: generation_pb2.TokenLogprob) -> results.TokenLogprob:
    return results.TokenLogprob(message.token_id, message.token, message.logprob)


def _usage(message: generation_pb2.Usage) -> results.Usage:
    return results.Usage(
        prompt_tokens=message.prompt_tokens,
        cached_prompt_tokens=message.cached_prompt_tokens,
        completion_tokens=message.completion_tokens,
        reasoning_tokens=message.reasoning_tokens,
    )


def _timings(message: generation_pb2.Timings) -> results.Timings:
    return results.Timings(
        queue=message.queue.ToTimedelta().total_seconds(),
        prefill=message.prefill.ToTimedelta().total_seconds(),
        decode=message.decode.ToTimedelta().total_seconds(),
        time_to_first_token=message.time_to_first_token.ToTimedelta().total_seconds(),
    )


def _finish_reason(number: int) -> results.FinishReason:
    return cast(results.FinishReason, word(generation_pb2.FinishReason.DESCRIPTOR, number))


def word(enum: EnumDescriptor, number: int) -> str:
    """`FINISH_REASON_MAX_TOKENS` is "max_tokens"; a value newer than this client "unspecified"."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    value = enum.values_by_number.get(number)
    return value.name.removeprefix(prefix).lower() if value else "unspecified"
