"""Every field of a request, just inside its range and just outside."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from running_server import RunningServer, asked, detail, error_of, gated, serving

from llm_serving_engine.v1 import inference_pb2

INSIDE: list[dict[str, Any]] = [
    {"request_id": "i" * 128},
    {"request_id": " ~!"},
    {"max_tokens": 1},
    {"max_tokens": 100},
    *({"sampling": {"temperature": value}} for value in (0, 1e-30, 100)),
    *({"sampling": {"temperature": 1, "top_p": value}} for value in (1e-30, 1)),
    *({"sampling": {"temperature": 1, "min_p": value}} for value in (0, 1)),
    *({"sampling": {"temperature": 1, "top_k": value}} for value in (0, 1, 2**32 - 1)),
    *({"sampling": {"temperature": 1, "seed": value}} for value in (0, 2**64 - 1)),
    *({"sampling": {"repetition_penalty": value}} for value in (1e-30, 10)),
    *({"sampling": {"presence_penalty": value}} for value in (-2, 2)),
    *({"sampling": {"frequency_penalty": value}} for value in (-2, 2)),
    *({"sampling": {"logit_bias": {0: value}}} for value in (-100, 100)),
    {"sampling": {"logit_bias": dict.fromkeys(range(300), 0.5)}},
    {"stop": ["s"] * 16},
    {"stop": ["s" * 256]},
    {"stop": ["é" * 128]},
    {"top_logprobs": 0},
    {"top_logprobs": 20},
    *({"priority": value} for value in range(5)),
    {"cache_salt": "s" * 128},
    {"prompt": "x"},
    {"prompt_tokens": {"ids": [0]}},
    {"chat": {"messages": [{"role": "user"}]}},
]

OUTSIDE: list[tuple[dict[str, Any], str, str]] = [
    # the request, the field that is named, and what the description says would be right
    ({"request_id": "i" * 129}, "request_id", "128 characters"),
    ({"request_id": "\n"}, "request_id", "printable ASCII"),
    ({"request_id": "é"}, "request_id", "printable ASCII"),
    ({"request_id": "\x7f"}, "request_id", "printable ASCII"),
    ({"max_tokens": 0}, "max_tokens", "1 to 100"),
    ({"max_tokens": 101}, "max_tokens", "1 to 100"),
    ({"max_tokens": 2**32 - 1}, "max_tokens", "1 to 100"),
    *(
        ({"sampling": {"temperature": value}}, "sampling.temperature", "from 0 to 100")
        for value in (-1e-6, 100.01, math.inf, -math.inf, math.nan)
    ),
    *(
        ({"sampling": {"top_p": value}}, "sampling.top_p", "above 0 to 1")
        for value in (0, 1.001, math.nan)
    ),
    *(
        ({"sampling": {"min_p": value}}, "sampling.min_p", "from 0 to 1")
        for value in (-0.001, 1.001, math.nan)
    ),
    *(
        ({"sampling": {name: value}}, f"sampling.{name}", "above 0 to 10")
        for name in ("repetition_penalty",)
        for value in (0, -1, 10.01, math.nan)
    ),
    *(
        ({"sampling": {name: value}}, f"sampling.{name}", "from -2 to 2")
        for name in ("presence_penalty", "frequency_penalty")
        for value in (-2.001, 2.001, math.nan)
    ),
    *(
        ({"sampling": {"logit_bias": {0: value}}}, "sampling.logit_bias", "-100 to 100")
        for value in (-100.01, 100.01, math.inf, math.nan)
    ),
    (
        {"sampling": {"logit_bias": {2**32 - 1: 0.0}}},
        "sampling.logit_bias",
        "vocabulary ends at {last}",
    ),
    (
        {"sampling": {"logit_bias": dict.fromkeys(range(1025), 0.0)}},
        "sampling.logit_bias",
        "the limit is 1024",
    ),
    ({"stop": ["s"] * 17}, "stop", "the limit is 16"),
    ({"stop": ["s", ""]}, "stop[1]", "1 to 256"),
    ({"stop": ["s" * 257]}, "stop[0]", "1 to 256"),
    ({"stop": ["é" * 129]}, "stop[0]", "1 to 256"),
    ({"top_logprobs": 21}, "top_logprobs", "0 to 20"),
    ({"priority": 5}, "priority", "LOW, NORMAL, HIGH, CRITICAL"),
    ({"priority": -1}, "priority", "LOW, NORMAL, HIGH, CRITICAL"),
    ({"cache_salt": "s" * 129}, "cache_salt", "128 bytes"),
    ({"cache_salt": "é" * 65}, "cache_salt", "128 bytes"),
    ({"prompt": ""}, "prompt", "empty"),
    ({"prompt": "x" * 1001}, "prompt", "limit is 1000"),
    ({"prompt": "é" * 501}, "prompt", "limit is 1000"),
    ({"prompt_tokens": {"ids": []}}, "prompt_tokens.ids", "empty"),
    ({"prompt_tokens": {"ids": [2**32 - 1]}}, "prompt_tokens.ids", "vocabulary ends at {last}"),
    ({"chat": {"messages": []}}, "chat.messages", "empty"),
    ({"chat": {"messages": [{"content": "x"}]}}, "chat.messages[0].role", "empty"),
    (
        {"chat": {"messages": [{"role": "user", "content": "x" * 600}] * 2}},
        "chat.messages",
        "limit is 1000",
    ),
    ({"chat": {"messages": [{"role": "r" * 1001}]}}, "chat.messages", "limit is 1000"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def strict(tiny_model_path: Any) -> AsyncIterator[RunningServer]:
    """The tiny model, under small limits."""
    async with serving(
        tiny_model_path,
        model={"runner": {"sequences": 1, "context_per_sequence": 256, "threads": 1}},
        generation={"max_tokens_ceiling": 100, "prompt_bytes_max": 1000},
    ) as running:
        yield running


def short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 40 else text[:37] + "..."


@pytest.mark.parametrize("fields", INSIDE, ids=short)
async def test_inside(strict: RunningServer, fields: dict[str, Any]) -> None:
    answer = await strict.generate(**{"max_tokens": 2, **fields})
    assert 1 <= answer.usage.completion_tokens <= fields.get("max_tokens", 2)


@pytest.mark.parametrize(("fields", "field", "right"), OUTSIDE, ids=short)
async def test_outside(
    strict: RunningServer, fields: dict[str, Any], field: str, right: str
) -> None:
    right = right.format(last=strict.model.vocabulary_size - 1)
    error = await error_of(strict.generate(**fields))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == field
    assert right in violation.description
    assert error.details() == f"{field}: {violation.description}"


async def test_a_prompt_of_the_largest_size_is_refused_for_its_tokens_only(
    strict: RunningServer,
) -> None:
    error = await error_of(strict.generate("x" * 1000))
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert "context of 256" in violation.description


async def test_the_largest_token(strict: RunningServer) -> None:
    last = strict.model.vocabulary_size - 1
    await strict.generate(prompt_tokens={"ids": [last]}, sampling={"logit_bias": {last: 1.0}})
    error = await error_of(strict.generate(prompt_tokens={"ids": [0, last + 1]}))
    assert (
        detail(error, error_details_pb2.BadRequest).field_violations[0].field.startswith("prompt")
    )
    error = await error_of(strict.generate(sampling={"logit_bias": {last + 1: 1.0}}))
    assert detail(error, error_details_pb2.BadRequest).field_violations[0].field.endswith("bias")


async def test_prompt_and_max_tokens_just_fit(strict: RunningServer) -> None:
    ids = [5] * 156
    answer = await strict.generate(prompt_tokens={"ids": ids}, max_tokens=100)
    assert answer.usage.completion_tokens == 100
    error = await error_of(strict.generate(prompt_tokens={"ids": [5, *ids]}, max_tokens=100))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == "max_tokens"
    assert "room for 99" in violation.description
    assert "256" in violation.description


@pytest.mark.parametrize("max_tokens", [None, 1])
async def test_a_prompt_that_leaves_no_room(strict: RunningServer, max_tokens: int | None) -> None:
    error = await error_of(strict.generate(prompt_tokens={"ids": [5] * 256}, max_tokens=max_tokens))
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field in ("prompt_tokens", "max_tokens")
    assert "256" in violation.description


async def test_an_empty_request(strict: RunningServer) -> None:
    error = await error_of(strict.inference.Generate(inference_pb2.GenerateRequest()))
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == "input"
    assert violation.description == "is missing: set one of prompt, prompt_tokens, chat"


async def test_streams_refuse_in_the_same_way(strict: RunningServer) -> None:
    error = await error_of(strict.stream(max_tokens=0).read())
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == "max_tokens"


async def test_a_tenant_that_is_too_long(strict: RunningServer) -> None:
    async def of(tenant: str) -> Any:
        return await strict.inference.Generate(asked(), metadata=[("x-tenant-id", tenant)])

    await of("t" * 128)
    error = await error_of(of("t" * 129))
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == "x-tenant-id"
    assert "128" in violation.description


async def test_zero_is_a_value() -> None:
    async with gated(generation={"temperature": 0.7, "top_k": 30, "min_p": 0.25}) as server:
        server.runner.open()
        await server.generate(sampling={"top_k": 0, "min_p": 0}, request_id="zero")
        await server.inference.Generate(asked(sampling={"temperature": 0.0}, request_id="unset"))
        zero = server.recorder.sequences["zero"].request.sampling
        assert (zero.temperature, zero.top_k, zero.min_p) == (0, 0, 0)
        unset = server.recorder.sequences["unset"].request.sampling
        assert (unset.top_k, unset.min_p) == (30, 0.25)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({}, "input"),
        ({"text": "x" * 1001}, "text"),
        ({"chat": {}}, "chat.messages"),
        ({"chat": {"messages": [{"content": "x"}]}}, "chat.messages[0].role"),
    ],
)
async def test_tokenize_refuses(strict: RunningServer, request_: Any, field: str) -> None:
    request = inference_pb2.TokenizeRequest(**request_)
    error = await error_of(strict.inference.Tokenize(request))
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == field
