"""Converts wire messages to the service's requests, without validation or copies."""

from __future__ import annotations

from typing import Any

from google.protobuf import struct_pb2
from google.protobuf.message import Message as WireMessage

from llm_serving_engine.server.default_sampling import SCALARS
from llm_serving_engine.server.service.request import (
    Chat,
    Converted,
    DetokenizeRequest,
    GenerationRequest,
    Message,
    SamplingFields,
    Text,
    TokenizeRequest,
    Tokens,
)
from llm_serving_engine.v1 import generation_pb2, inference_pb2

_SAMPLING_SCALARS = (*SCALARS, "seed")


def decode_generate(message: inference_pb2.GenerateRequest) -> GenerationRequest:
    """Decode a request of Generate or Stream."""
    return GenerationRequest(
        input=_input(message),
        request_id=message.request_id,
        model=message.model,
        max_tokens=_optional(message, "max_tokens"),
        sampling=_sampling(message.sampling),
        stop=message.stop,
        stop_token_ids=message.stop_token_ids,
        min_tokens=_optional(message, "min_tokens"),
        ignore_eos=message.ignore_eos,
        top_logprobs=_optional(message, "top_logprobs"),
        priority=message.priority or None,
        cache_salt=message.cache_salt,
    )


def decode_tokenize(message: inference_pb2.TokenizeRequest) -> TokenizeRequest:
    """Decode a request of Tokenize."""
    kind = message.WhichOneof("input")
    source: Text | Chat | None = None
    if kind == "text":
        source = Text(message.text, "text", message.parse_special)
    elif kind == "chat":
        source = _chat(message.chat)
    return TokenizeRequest(source, message.model, message.ids_only)


def decode_detokenize(message: inference_pb2.DetokenizeRequest) -> DetokenizeRequest:
    """Decode a request of Detokenize."""
    return DetokenizeRequest(message.token_ids, message.model, message.show_special)


def _input(message: inference_pb2.GenerateRequest) -> Text | Tokens | Chat | None:
    kind = message.WhichOneof("input")
    if kind == "prompt":
        return Text(message.prompt, parse_special=message.parse_special)
    if kind == "prompt_tokens":
        return Tokens(message.prompt_tokens.ids)
    return _chat(message.chat) if kind == "chat" else None


def _chat(chat: generation_pb2.Chat) -> Chat:
    arguments = {name: _plain(value) for name, value in chat.template_arguments.fields.items()}
    return Chat(Converted(chat.messages, _message), arguments, chat.continue_last)


def _plain(value: struct_pb2.Value) -> Any:
    """A value of a Struct as Python has it; a whole number is an integer."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {name: _plain(entry) for name, entry in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_plain(entry) for entry in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    return None if kind in (None, "null_value") else getattr(value, kind)


def _message(message: generation_pb2.Message) -> Message:
    return Message(message.role, message.content, message.reasoning)


def _sampling(sampling: generation_pb2.Sampling) -> SamplingFields:
    said = {name: _optional(sampling, name) for name in _SAMPLING_SCALARS}
    return SamplingFields(logit_bias=sampling.logit_bias, **said)


def _optional(message: WireMessage, field: str) -> Any:
    """Return an optional field's value; None if it is not set."""
    return getattr(message, field) if message.HasField(field) else None
