"""Callers' requests, and their wire messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypedDict, TypeGuard, cast, get_args

from llm_serving_engine.clients.field_values import check_fields
from llm_serving_engine.v1 import generation_pb2, inference_pb2, operations_pb2

Priority = Literal["low", "normal", "high", "critical"]
"""A request's class; a class is served before every class below it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is "system", "user", or "assistant"."""

    role: str
    content: str


Prompt = str | Sequence[int] | Sequence[Message] | Sequence[Mapping[str, str]]
"""What to continue: a text, token ids, or a conversation's messages, oldest first."""

Text = str | Sequence[Message] | Sequence[Mapping[str, str]]
"""What to tokenize: a text, or a conversation's messages."""


class GenerateOptions(TypedDict, total=False):
    """How to generate. What is left out, or None, takes the server's default.

    The ranges are those of `GenerateRequest` and `Sampling` on the wire.

    Attributes:
        model: The model's name.
        request_id: Your own id for the request.
        max_tokens: Tokens to produce at most.
        temperature: Divides the logits; 0 is greedy.
        top_p: Keeps the most likely tokens that add up to this probability.
        min_p: Keeps tokens at least this fraction as likely as the likeliest.
        top_k: Keeps this many of the most likely tokens; 0 keeps all.
        seed: Of the randomness: the same seed draws the same numbers.
        repetition_penalty: Divides the logits of tokens seen before; 1 is off.
        presence_penalty: Taken from the logits of tokens produced before.
        frequency_penalty: The same, for each time they were produced.
        logit_bias: Added to the logits, by token id.
        stop: Texts that end the output and are not part of it.
        stop_token_ids: Tokens that end the output and are not part of it.
        min_tokens: Tokens to produce at least.
        ignore_eos: Go on past the model's own end.
        top_logprobs: Report log-probabilities, with this many alternatives.
        priority: The request's class.
        cache_salt: Cached prefixes are shared only under the same salt.
        parse_special: Make the control tokens that a text prompt names these tokens.
        template_arguments: Variables for the chat template.
        continue_last: Go on with a conversation's last message.
    """

    model: str | None
    request_id: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    min_p: float | None
    top_k: int | None
    seed: int | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    min_tokens: int | None
    ignore_eos: bool | None
    top_logprobs: int | None
    priority: Priority | None
    cache_salt: str | None
    parse_special: bool | None
    template_arguments: Mapping[str, Any] | None
    continue_last: bool | None


_OPTIONS = sorted(GenerateOptions.__annotations__)
_PRIORITIES = get_args(Priority)
_CHAT_OPTIONS = frozenset({"template_arguments", "continue_last"})
_SAMPLING = frozenset(generation_pb2.Sampling.DESCRIPTOR.fields_by_name)


def generate_request(prompt: Prompt, options: GenerateOptions) -> inference_pb2.GenerateRequest:
    """The wire message.

    Raises:
        TypeError, ValueError: A value that the wire has no place for, such as
            a negative count, or options of conversations with another prompt.
            What the wire can say is for the server to judge.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(given.keys() - set(_OPTIONS)):
        raise ValueError(f"there is no option {unknown[0]}; there are {', '.join(_OPTIONS)}")
    of_chats = {name: given.pop(name) for name in _CHAT_OPTIONS & given.keys()}
    sampling = {name: given.pop(name) for name in _SAMPLING & given.keys()}
    check_fields(generation_pb2.Sampling, sampling)
    if sampling:
        given["sampling"] = generation_pb2.Sampling(**sampling)
    if isinstance(stop := given.get("stop"), str):
        given["stop"] = [stop]
    if "priority" in given:
        given["priority"] = _priority(given["priority"])
    check_fields(inference_pb2.GenerateRequest, given)
    if not isinstance(prompt, str) and _is_chat(prompt):
        return inference_pb2.GenerateRequest(chat=_chat(prompt, **of_chats), **given)
    if of_chats:
        raise ValueError(f"{', '.join(sorted(of_chats))}: only for conversations")
    if isinstance(prompt, str):
        return inference_pb2.GenerateRequest(prompt=prompt, **given)
    tokens = generation_pb2.TokenIds(ids=cast(Sequence[int], prompt))
    return inference_pb2.GenerateRequest(prompt_tokens=tokens, **given)


def _priority(priority: str) -> str:
    """The label on the wire."""
    if priority not in _PRIORITIES:
        raise ValueError(f"priority is {priority!r}; it can be one of: {', '.join(_PRIORITIES)}")
    return f"PRIORITY_{priority.upper()}"


def tokenize_request(
    text: Text, model: str, parse_special: bool = False
) -> inference_pb2.TokenizeRequest:
    """The wire message."""
    if isinstance(text, str):
        return inference_pb2.TokenizeRequest(model=model, text=text, parse_special=parse_special)
    return inference_pb2.TokenizeRequest(model=model, chat=_chat(text))


def _is_chat(prompt: Prompt) -> TypeGuard[Sequence[Message | Mapping[str, str]]]:
    return len(prompt) > 0 and isinstance(prompt[0], (Message, Mapping))


def _chat(
    messages: Sequence[Message | Mapping[str, str]],
    *,
    template_arguments: Mapping[str, Any] | None = None,
    continue_last: bool = False,
) -> generation_pb2.Chat:
    chat = generation_pb2.Chat(
        messages=[_message(message) for message in messages], continue_last=continue_last
    )
    if template_arguments is not None:
        chat.template_arguments.update(template_arguments)
    return chat


def _message(message: Message | Mapping[str, str]) -> generation_pb2.Message:
    if isinstance(message, Message):
        return generation_pb2.Message(role=message.role, content=message.content)
    return generation_pb2.Message(**message)


def watch_request(model: str, interval: float | None) -> operations_pb2.WatchSchedulerStateRequest:
    """The wire message; `interval` in seconds."""
    request = operations_pb2.WatchSchedulerStateRequest(model=model)
    if interval is not None:
        request.interval.FromTimedelta(timedelta(seconds=interval))
    return request
