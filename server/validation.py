"""From the wire to the domain: what has passed here cannot be wrong any more."""

from __future__ import annotations

import asyncio
import math
import secrets
from dataclasses import dataclass

from llm_serving_engine.backends.text.chat import TemplateError
from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.scheduler.request import Priority, Request, Sampling
from llm_serving_engine.server.config import GenerationConfig
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.v1 import generation_pb2, inference_pb2

REQUEST_ID_CHARACTERS_MAX = 128
TENANT_CHARACTERS_MAX = 128
CACHE_SALT_BYTES_MAX = 128
STOPS_MAX = 16
STOP_BYTES_MAX = 256
TOP_LOGPROBS_MAX = 20
LOGIT_BIAS_ENTRIES_MAX = 1024
# Longer texts are tokenized on another thread: they would hold up the event loop.
INLINE_TEXT_CHARACTERS_MAX = 4096


@dataclass(frozen=True, slots=True)
class Call:
    """A valid generation: what the scheduler needs, and what only the text's side needs.

    Attributes:
        request: For the scheduler.
        request_id: As the caller knows it.
        stops: Stop sequences.
        chat: Whether the input was a conversation.
    """

    request: Request
    request_id: str
    stops: tuple[str, ...]
    chat: bool


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the tenant, empty where nobody says, and the deadline in the engine's time."""

    tenant: str = ""
    deadline: float | None = None


async def parse_generate(
    message: inference_pb2.GenerateRequest,
    model: ServedModel,
    config: GenerationConfig,
    caller: Caller,
) -> Call:
    """Validate a request.

    Raises:
        InvalidField: Naming the first field that is wrong.
    """
    request_id = _request_id(message)
    sampling = parse_sampling(message, config, model.vocabulary_size)
    stops = _stops(message)
    top_logprobs = _top_logprobs(message, model)
    priority = _priority(message)
    _check(
        len(message.cache_salt.encode()) <= CACHE_SALT_BYTES_MAX,
        "cache_salt",
        f"is longer than {CACHE_SALT_BYTES_MAX} bytes",
    )
    _check(
        len(caller.tenant) <= TENANT_CHARACTERS_MAX,
        "x-tenant-id",
        f"is longer than {TENANT_CHARACTERS_MAX} characters",
    )
    _check_max_tokens(message, config)
    prompt = await _prompt(message, model, config)
    request = Request(
        id=model.unique_id(request_id),
        prompt=prompt,
        max_tokens=_max_tokens(message, len(prompt), model, config),
        sampling=sampling,
        stop_tokens=frozenset() if message.ignore_eos else model.tokenizer.stop_tokens,
        top_logprobs=top_logprobs,
        priority=priority,
        tenant=caller.tenant,
        cache_salt=message.cache_salt,
        deadline=caller.deadline,
    )
    return Call(request, request_id, stops, message.HasField("chat"))


def parse_sampling(
    message: inference_pb2.GenerateRequest, config: GenerationConfig, vocabulary_size: int
) -> Sampling:
    """How tokens are chosen, with the configured defaults. Raises InvalidField."""
    sampling = message.sampling

    def number(
        field: str, default: float, low: float, high: float, open_low: bool = False
    ) -> float:
        if not sampling.HasField(field):  # type: ignore[arg-type]
            return default
        value: float = getattr(sampling, field)
        inside = (low < value if open_low else low <= value) and value <= high
        _check(
            inside,
            f"sampling.{field}",
            f"is {value:g}; it can be {'above' if open_low else 'from'} {low:g} to {high:g}",
        )
        return value

    return Sampling(
        temperature=number("temperature", config.temperature, 0, 100),
        top_p=number("top_p", config.top_p, 0, 1, open_low=True),
        min_p=number("min_p", config.min_p, 0, 1),
        top_k=sampling.top_k if sampling.HasField("top_k") else config.top_k,
        seed=sampling.seed if sampling.HasField("seed") else secrets.randbits(64),
        repetition_penalty=number("repetition_penalty", 1.0, 0, 10, open_low=True),
        presence_penalty=number("presence_penalty", 0.0, -2, 2),
        frequency_penalty=number("frequency_penalty", 0.0, -2, 2),
        logit_bias=_logit_bias(sampling, vocabulary_size),
    )


async def parse_tokenize(
    message: inference_pb2.TokenizeRequest, model: ServedModel, config: GenerationConfig
) -> tuple[int, ...]:
    """The tokens of a text or a conversation. Raises InvalidField."""
    kind = message.WhichOneof("input")
    _check(kind is not None, "input", "is missing: set one of text, chat")
    if kind == "chat":
        return await _chat_tokens(message.chat, model, config)
    _check_size("text", message.text, config)
    return await _encode(message.text, model, special=False)


# Prompts


async def _prompt(
    message: inference_pb2.GenerateRequest, model: ServedModel, config: GenerationConfig
) -> tuple[int, ...]:
    kind = message.WhichOneof("input")
    if kind == "prompt":
        _check(message.prompt != "", "prompt", "is empty")
        _check_text_fits("prompt", message.prompt, model, config)
        prompt = await _encode(message.prompt, model, special=False)
        _check(len(prompt) > 0, "prompt", "has no tokens")
    elif kind == "prompt_tokens":
        prompt = _given_tokens(message.prompt_tokens, model)
    elif kind == "chat":
        prompt = await _chat_tokens(message.chat, model, config)
    else:
        raise InvalidField("input", "is missing: set one of prompt, prompt_tokens, chat")
    return prompt


def _given_tokens(tokens: generation_pb2.TokenIds, model: ServedModel) -> tuple[int, ...]:
    _check(len(tokens.ids) > 0, "prompt_tokens.ids", "is empty")
    largest = max(tokens.ids)
    _check(
        largest < model.vocabulary_size,
        "prompt_tokens.ids",
        f"has {largest}; the vocabulary ends at {model.vocabulary_size - 1}",
    )
    return tuple(tokens.ids)


async def _chat_tokens(
    chat: generation_pb2.Chat, model: ServedModel, config: GenerationConfig
) -> tuple[int, ...]:
    template = model.chat_template
    if template is None:
        raise InvalidField("chat", f"model {model.name!r} has no chat template; use prompt")
    _check(len(chat.messages) > 0, "chat.messages", "is empty")
    for index, turn in enumerate(chat.messages):
        _check(turn.role != "", f"chat.messages[{index}].role", "is empty")
    text_bytes = sum(len(turn.role.encode()) + len(turn.content.encode()) for turn in chat.messages)
    _check(
        text_bytes <= config.prompt_bytes_max,
        "chat.messages",
        f"have {text_bytes} bytes in all; the limit is {config.prompt_bytes_max}",
    )
    turns = [{"role": turn.role, "content": turn.content} for turn in chat.messages]
    try:
        # How long that takes is the template's affair, except for short conversations.
        if text_bytes <= INLINE_TEXT_CHARACTERS_MAX:
            rendered = template.render(turns)
        else:
            rendered = await asyncio.to_thread(template.render, turns)
    except TemplateError as error:
        raise InvalidField("chat", str(error)) from error
    tokens = await _encode(rendered, model, special=True)
    _check(len(tokens) > 0, "chat", "has no tokens")
    return tokens


async def _encode(text: str, model: ServedModel, *, special: bool) -> tuple[int, ...]:
    if len(text) <= INLINE_TEXT_CHARACTERS_MAX:
        return tuple(model.tokenizer.encode(text, special=special))
    return tuple(await asyncio.to_thread(model.tokenizer.encode, text, special=special))


def _check_size(field: str, text: str, config: GenerationConfig) -> int:
    """Hold a text against the configured limit; its size in bytes."""
    size = len(text.encode())
    _check(
        size <= config.prompt_bytes_max,
        field,
        f"has {size} bytes; the limit is {config.prompt_bytes_max}",
    )
    return size


def _check_text_fits(field: str, text: str, model: ServedModel, config: GenerationConfig) -> None:
    """Refuse what cannot fit before it costs the time to tokenize it."""
    size = _check_size(field, text, config)
    tokens_min = size // model.tokenizer.longest_piece
    _check(
        tokens_min < model.context_per_sequence,
        field,
        f"has {tokens_min} tokens or more; with max_tokens it must fit the context "
        f"of {model.context_per_sequence}",
    )


# Fields


def _request_id(message: inference_pb2.GenerateRequest) -> str:
    wish = message.request_id
    _check(
        len(wish) <= REQUEST_ID_CHARACTERS_MAX,
        "request_id",
        f"is longer than {REQUEST_ID_CHARACTERS_MAX} characters",
    )
    _check(wish.isascii() and (wish.isprintable()), "request_id", "is not printable ASCII")
    return wish or secrets.token_hex(8)


def _stops(message: inference_pb2.GenerateRequest) -> tuple[str, ...]:
    _check(
        len(message.stop) <= STOPS_MAX,
        "stop",
        f"has {len(message.stop)} entries; at most {STOPS_MAX} are possible",
    )
    for index, stop in enumerate(message.stop):
        _check(
            1 <= len(stop.encode()) <= STOP_BYTES_MAX,
            f"stop[{index}]",
            f"has {len(stop.encode())} bytes; it can have 1 to {STOP_BYTES_MAX}",
        )
    return tuple(message.stop)


def _top_logprobs(message: inference_pb2.GenerateRequest, model: ServedModel) -> int | None:
    if not message.HasField("top_logprobs"):
        return None
    _check(
        model.capabilities.logprobs,
        "top_logprobs",
        f"the backend of model {model.name!r} has no log-probabilities",
    )
    _check(
        message.top_logprobs <= TOP_LOGPROBS_MAX,
        "top_logprobs",
        f"is {message.top_logprobs}; it can be 0 to {TOP_LOGPROBS_MAX}",
    )
    return message.top_logprobs


def _priority(message: inference_pb2.GenerateRequest) -> Priority:
    if message.priority == generation_pb2.PRIORITY_UNSPECIFIED:
        return Priority.NORMAL
    try:
        return Priority(message.priority)
    except ValueError:
        known = ", ".join(priority.name for priority in Priority)
        raise InvalidField("priority", f"is {message.priority}; it can be {known}") from None


def _check_max_tokens(message: inference_pb2.GenerateRequest, config: GenerationConfig) -> None:
    if message.HasField("max_tokens"):
        ceiling = config.max_tokens_ceiling
        _check(
            1 <= message.max_tokens <= ceiling,
            "max_tokens",
            f"is {message.max_tokens}; it can be 1 to {ceiling}",
        )


def _max_tokens(
    message: inference_pb2.GenerateRequest,
    prompt_tokens: int,
    model: ServedModel,
    config: GenerationConfig,
) -> int:
    context = model.context_per_sequence
    field = message.WhichOneof("input") or "input"
    _check(
        prompt_tokens < context,
        field,
        f"has {prompt_tokens} tokens, which leave no room in the context of {context}",
    )
    if not message.HasField("max_tokens"):
        return min(config.max_tokens_default, config.max_tokens_ceiling)
    room = context - prompt_tokens
    _check(
        message.max_tokens <= room,
        "max_tokens",
        f"is {message.max_tokens}; the context holds {context} tokens, and after a prompt of "
        f"{prompt_tokens} has room for {room}",
    )
    return message.max_tokens


def _logit_bias(sampling: generation_pb2.Sampling, vocabulary_size: int) -> dict[int, float]:
    field = "sampling.logit_bias"
    _check(
        len(sampling.logit_bias) <= LOGIT_BIAS_ENTRIES_MAX,
        field,
        f"has {len(sampling.logit_bias)} entries; at most {LOGIT_BIAS_ENTRIES_MAX} are possible",
    )
    for token, bias in sampling.logit_bias.items():
        _check(
            token < vocabulary_size,
            field,
            f"names token {token}; the vocabulary ends at {vocabulary_size - 1}",
        )
        _check(
            math.isfinite(bias) and -100 <= bias <= 100,
            field,
            f"is {bias:g} for token {token}; it can be -100 to 100",
        )
    return dict(sampling.logit_bias)


def _check(holds: bool, field: str, description: str) -> None:
    if not holds:
        raise InvalidField(field, description)
