"""Validates neutral requests. Later code does not check a `Call` again."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from llm_serving_engine.backends.text.reasoning import ReasoningFormat
from llm_serving_engine.scheduler.errors import InvalidField
from llm_serving_engine.scheduler.request import Operation, Priority, Request
from llm_serving_engine.scheduler.step import Output
from llm_serving_engine.server.config import GenerationConfig
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.server.service.fields import check, check_fits, check_tokens
from llm_serving_engine.server.service.prompts import input_field, parse_prompt
from llm_serving_engine.server.service.request import Chat, GenerationRequest
from llm_serving_engine.server.service.sampling import parse_sampling

REQUEST_ID_CHARACTERS_MAX = 128
TENANT_CHARACTERS_MAX = 128
CACHE_SALT_BYTES_MAX = 128
STOPS_MAX = 16
STOP_BYTES_MAX = 256
STOP_TOKEN_IDS_MAX = 64
TOP_LOGPROBS_MAX = 20


@dataclass(frozen=True, slots=True)
class Call:
    """A valid generation: the scheduler's request, and the fields of text processing.

    Attributes:
        request: For the scheduler.
        request_id: As the caller knows it.
        model: The name of the model that serves it.
        stops: Stop sequences.
        reasoning: How the model marks its reasoning; None where all output is text.
        opens_reasoning: Whether the output begins inside of the reasoning.
    """

    request: Request
    request_id: str
    model: str
    stops: tuple[str, ...]
    reasoning: ReasoningFormat | None = None
    opens_reasoning: bool = False


async def parse_generate(
    request: GenerationRequest,
    model: ServedModel,
    config: GenerationConfig,
    tenant: str,
    deadline: float,
) -> Call:
    """Validate a request.

    Args:
        request: What the transport read.
        model: The model that is to serve it.
        config: Defaults and ceilings.
        tenant: On whose behalf.
        deadline: In seconds of the engine's clock; infinity for none.

    Raises:
        InvalidField: Naming the first field that is wrong.
    """
    request_id = _request_id(request)
    sampling = parse_sampling(request.sampling, model.default_sampling, model.vocabulary_size)
    stops = _stops(request.stop)
    stop_token_ids = _stop_token_ids(request.stop_token_ids, model.vocabulary_size)
    top_logprobs = _top_logprobs(request, model)
    priority = _priority(request)
    _check_shares(request, tenant)
    _check_max_tokens(request, config)
    parsed = await parse_prompt(request.input, model, config)
    prompt = parsed.tokens
    max_tokens = _max_tokens(request, len(prompt), model, config)
    stop_tokens = stop_token_ids if request.ignore_eos else model.text.stop_tokens | stop_token_ids
    if min_tokens := _min_tokens(request, max_tokens):
        sampling = replace(sampling, min_tokens=min_tokens, withheld=stop_tokens)
    scheduled = Request(
        id=request_id,
        prompt=prompt,
        max_tokens=max_tokens,
        sampling=sampling,
        stop_tokens=stop_tokens,
        stop_token_ids=stop_token_ids,
        top_logprobs=top_logprobs,
        priority=priority,
        tenant=tenant,
        cache_salt=request.cache_salt,
        deadline=deadline,
        operation=Operation.CHAT if isinstance(request.input, Chat) else Operation.TEXT_COMPLETION,
    )
    return Call(
        scheduled,
        request_id,
        model.name,
        stops,
        parsed.reasoning,
        parsed.opens_reasoning,
    )


def _check_shares(request: GenerationRequest, tenant: str) -> None:
    """Check what decides with whom the request shares its turn and its cache."""
    check(
        len(request.cache_salt.encode()) <= CACHE_SALT_BYTES_MAX,
        "cache_salt",
        f"is longer than {CACHE_SALT_BYTES_MAX} bytes",
    )
    check(
        len(tenant) <= TENANT_CHARACTERS_MAX,
        "x-tenant-id",
        f"is longer than {TENANT_CHARACTERS_MAX} characters",
    )


def _request_id(request: GenerationRequest) -> str:
    wish = request.request_id
    check(
        len(wish) <= REQUEST_ID_CHARACTERS_MAX,
        "request_id",
        f"is longer than {REQUEST_ID_CHARACTERS_MAX} characters",
    )
    check(wish.isascii() and (wish.isprintable()), "request_id", "is not printable ASCII")
    return wish or secrets.token_hex(8)


def _stops(stops: Sequence[str]) -> tuple[str, ...]:
    check(
        len(stops) <= STOPS_MAX,
        "stop",
        f"has {len(stops)} entries; the limit is {STOPS_MAX}",
    )
    for index, stop in enumerate(stops):
        check(
            1 <= len(stop.encode()) <= STOP_BYTES_MAX,
            f"stop[{index}]",
            f"has {len(stop.encode())} bytes; it can have 1 to {STOP_BYTES_MAX}",
        )
    return tuple(stops)


def _stop_token_ids(ids: Sequence[int], vocabulary_size: int) -> frozenset[int]:
    field = "stop_token_ids"
    check(
        len(ids) <= STOP_TOKEN_IDS_MAX,
        field,
        f"has {len(ids)} entries; the limit is {STOP_TOKEN_IDS_MAX}",
    )
    check_tokens(ids, field, vocabulary_size)
    return frozenset(ids)


def _min_tokens(request: GenerationRequest, max_tokens: int) -> int:
    wanted = request.min_tokens or 0
    check(
        0 <= wanted <= max_tokens,
        "min_tokens",
        f"is {wanted}; it can be 0 to max_tokens, which is {max_tokens}",
    )
    return wanted


def _top_logprobs(request: GenerationRequest, model: ServedModel) -> int | None:
    wanted = request.top_logprobs
    if wanted is None:
        return None
    check(
        Output.LOGPROBS in model.capabilities.outputs,
        "top_logprobs",
        f"the backend of model {model.name!r} has no log-probabilities",
    )
    check(
        0 <= wanted <= TOP_LOGPROBS_MAX,
        "top_logprobs",
        f"is {wanted}; it can be 0 to {TOP_LOGPROBS_MAX}",
    )
    return wanted


def _priority(request: GenerationRequest) -> Priority:
    if request.priority is None:
        return Priority.NORMAL
    try:
        return Priority(request.priority)
    except ValueError:
        known = ", ".join(priority.name for priority in Priority)
        raise InvalidField("priority", f"is {request.priority}; it can be {known}") from None


def _check_max_tokens(request: GenerationRequest, config: GenerationConfig) -> None:
    if request.max_tokens is not None:
        ceiling = config.max_tokens_ceiling
        check(
            1 <= request.max_tokens <= ceiling,
            "max_tokens",
            f"is {request.max_tokens}; it can be 1 to {ceiling}",
        )


def _max_tokens(
    request: GenerationRequest, prompt_tokens: int, model: ServedModel, config: GenerationConfig
) -> int:
    context = model.context_per_sequence
    check_fits(
        prompt_tokens < context,
        input_field(request.input),
        f"has {prompt_tokens} tokens, which leave no room in the context of {context}",
        context,
    )
    if request.max_tokens is None:
        return min(config.max_tokens_default, config.max_tokens_ceiling)
    room = context - prompt_tokens
    check_fits(
        request.max_tokens <= room,
        "max_tokens",
        f"is {request.max_tokens}; the context holds {context} tokens, and after a prompt of "
        f"{prompt_tokens} has room for {room}",
        context,
    )
    return request.max_tokens
