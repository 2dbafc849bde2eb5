"""The table of errors, row by row, as a client sees it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from running_server import (
    RunningServer,
    detail,
    details,
    error_of,
    gated,
    read_all,
    serving,
)
from starlette.applications import Starlette

from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.scheduler.step import Output
from llm_serving_engine.server.app import App
from llm_serving_engine.server.config import ConfigError, HttpConfig, load_config
from llm_serving_engine.server.http_listener import HttpListener
from llm_serving_engine.server.model import ServedModel
from llm_serving_engine.v1 import inference_pb2, models_pb2, operations_pb2

SERVICE = "llm_serving_engine.v1.InferenceService"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plain(tiny_model_without_template_path: Path) -> AsyncIterator[RunningServer]:
    """A model without a chat template."""
    runner = {"sequences": 1, "context_per_sequence": 256, "threads": 1}
    async with serving(tiny_model_without_template_path, model={"runner": runner}) as running:
        yield running


def raw(server: RunningServer, data: bytes, method: str = "Generate") -> Any:
    """Send bytes as they are."""
    if method == "Stream":
        return server.channel.unary_stream(f"/{SERVICE}/{method}")(data).read()  # type: ignore[arg-type]
    return server.channel.unary_unary(f"/{SERVICE}/{method}")(data)  # type: ignore[arg-type]


def message(error: grpc.aio.AioRpcError) -> str:
    return error.details() or ""


def violation(error: grpc.aio.AioRpcError) -> Any:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (found,) = detail(error, error_details_pb2.BadRequest).field_violations
    return found


# INVALID_ARGUMENT


async def test_chat_without_a_template(plain: RunningServer) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    error = await error_of(plain.generate(chat=chat))
    assert violation(error).field == "chat"
    assert "no chat template: use completions (prompt), or serve with" in message(error)


async def test_what_the_template_refuses(write_tiny_model: Any, tmp_path: Path) -> None:
    template = "{{ raise_exception('roles must alternate') }}"
    path = write_tiny_model(tmp_path / "strict.gguf", chat_template=template)
    async with serving(path, model={"runner": {"sequences": 1, "threads": 1}}) as server:
        for content in ("hi", "hi " * 4000):
            chat = {"messages": [{"role": "user", "content": content}]}
            error = await error_of(server.generate(chat=chat))
            assert violation(error).field == "chat"
            assert "roles must alternate" in message(error)


async def test_a_template_that_is_not_valid(write_tiny_model: Any, tmp_path: Path) -> None:
    path = write_tiny_model(tmp_path / "broken.gguf", chat_template="{% if %}")
    async with serving(path, model={"runner": {"sequences": 1, "threads": 1}}) as server:
        chat = {"messages": [{"role": "user", "content": "hi"}]}
        assert violation(await error_of(server.generate(chat=chat))).field == "chat"
        assert (await server.generate()).text


@pytest.mark.parametrize("method", ["Generate", "Stream", "Tokenize"])
async def test_not_utf8(
    plain: RunningServer, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    field = 0x1A if method != "Tokenize" else 0x12  # prompt, or text: length-delimited
    error = await error_of(raw(plain, bytes((field, 4)) + b"ab\xff\xfe", method))
    assert violation(error).field == "request"
    assert "UTF-8" in message(error)
    (line,) = caplog.records
    assert line.fields["rpc"] == f"{SERVICE}/{method}"  # type: ignore[attr-defined]
    assert line.fields["status_code"] == "INVALID_ARGUMENT"  # type: ignore[attr-defined]
    await plain.generate()


async def test_random_bytes(plain: RunningServer) -> None:
    chance = random.Random(1)
    for _ in range(200):
        data = chance.randbytes(chance.randrange(1, 60))
        answer = await asyncio.gather(raw(plain, data), return_exceptions=True)
        if isinstance(answer[0], BaseException):
            assert isinstance(answer[0], grpc.aio.AioRpcError)
            assert answer[0].code() in (
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.NOT_FOUND,
            )
            assert details(answer[0])
    await plain.generate()


@pytest.mark.parametrize("size", [1_048_577, 5_000_000])
async def test_a_prompt_of_megabytes(plain: RunningServer, size: int) -> None:
    error = await error_of(plain.generate("x" * size))
    assert violation(error).field == "prompt"
    assert "limit is 1048576" in message(error)


async def test_a_chat_of_megabytes(tiny: RunningServer) -> None:
    for turn in ({"role": "user", "content": "x" * 5_000_000}, {"role": "r" * 5_000_000}):
        error = await error_of(tiny.generate(chat={"messages": [turn]}))
        assert violation(error).field.startswith("chat.messages")
        assert "limit is 1048576" in message(error)


async def test_a_long_chat_that_does_not_fit(tiny: RunningServer) -> None:
    turn = {"role": "user", "content": "once upon a time " * 1000}
    error = await error_of(tiny.generate(chat={"messages": [turn]}))
    assert violation(error).field == "chat"
    assert "context of 256" in message(error)


async def test_more_than_a_message_can_hold(plain: RunningServer) -> None:
    error = await error_of(plain.generate("x" * (16 * 1024 * 1024)))
    assert violation(error).field == "request"
    assert message(error) == "request: has 16.8 MB; the limit is 16 MiB"
    await plain.generate()


async def test_what_the_backend_cannot_do() -> None:
    async with gated(load=False) as server:
        backend = server.runner.backend
        capabilities = backend.report.capabilities._replace(outputs=Output.SAMPLE)
        backend.report = backend.report._replace(capabilities=capabilities)  # type: ignore[misc]
        await server.app.load()
        server.runner.open()
        error = await error_of(server.generate(top_logprobs=1))
        assert violation(error).field == "top_logprobs"
        assert (await server.generate()).text


# NOT_FOUND


@pytest.mark.parametrize("name", ["other", "x" * 20_000, "\N{PILE OF POO}" * 5_000])
async def test_an_unknown_model(plain: RunningServer, name: str) -> None:
    calls = [
        plain.generate(model=name),
        plain.stream(model=name).read(),
        plain.inference.Tokenize(inference_pb2.TokenizeRequest(model=name, text="x")),
        plain.models.GetModel(models_pb2.GetModelRequest(name=name)),
        plain.operations.GetSchedulerState(operations_pb2.GetSchedulerStateRequest(model=name)),
        plain.operations.WatchSchedulerState(
            operations_pb2.WatchSchedulerStateRequest(model=name)
        ).read(),
    ]
    for call in calls:
        error = await error_of(call)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        info = detail(error, error_details_pb2.ErrorInfo)
        assert info.domain == "llm-serving-engine"
        assert info.reason == "UNKNOWN_MODEL"
        assert dict(info.metadata) == {"models": "tiny-plain"}
        assert name[:20] in message(error)


async def test_the_default_model_by_its_name(plain: RunningServer) -> None:
    by_name = await plain.generate(model="tiny-plain")
    assert by_name.token_ids == (await plain.generate()).token_ids


# UNAVAILABLE


async def unavailable(call: Any, words: str) -> None:
    error = await error_of(call)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert words in message(error)
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToNanoseconds() > 0
    assert [type(one).__name__ for one in details(error)] == ["RetryInfo"]


async def test_loading() -> None:
    async with gated(load=False) as server:
        server.runner.loading.clear()
        loading = asyncio.ensure_future(server.app.load())
        await unavailable(server.generate(), "loading")
        await unavailable(server.stream().read(), "loading")
        await unavailable(
            server.operations.GetSchedulerState(operations_pb2.GetSchedulerStateRequest()),
            "loading",
        )
        server.runner.loading.set()
        await loading
        server.runner.open()
        await server.generate()


async def test_draining() -> None:
    async with gated(sequences=1) as server:
        stream = server.stream(request_id="running", max_tokens=20)
        assert (await stream.read()).HasField("started")
        waiting = asyncio.ensure_future(server.generate(request_id="waiting"))
        await server.recorder.state("waiting", State.WAITING)
        stopping = asyncio.ensure_future(server.app.stop(60))
        await server.recorder.until(lambda: server.model.state.value == "draining")
        await unavailable(server.generate(), "shutting down")
        await unavailable(server.stream().read(), "shutting down")
        server.runner.open()
        assert (await read_all(stream))[-1].HasField("finished")
        assert (await waiting).text
        await stopping


async def test_draining_for_too_long() -> None:
    async with gated(sequences=1) as server:
        stream = server.stream(max_tokens=20)
        assert (await stream.read()).HasField("started")
        stopping = asyncio.ensure_future(server.app.stop(0))
        await unavailable(read_all(stream), "shut down before the answer was complete")
        await stopping


async def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(60))
    async with serving(path, load=False) as server:
        with pytest.raises(Exception, match=str(path)):
            await server.app.load()
        await unavailable(server.generate(), "failed")
        model = (await server.models.GetModel(models_pb2.GetModelRequest())).model
        assert model.state == models_pb2.MODEL_STATE_FAILED
        assert model.state_reason
        assert not model.HasField("capabilities")


# INTERNAL


async def test_a_bug_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    async with gated() as server:
        server.runner.failure = ZeroDivisionError("internal words")
        server.runner.loading.clear()
        call = server.generate()
        server.runner.let()
        error = await error_of(call)
        assert error.code() is grpc.StatusCode.INTERNAL
        assert "internal words" not in str(error)
        assert "internal words" in caplog.text
        await server.recorder.until(lambda: server.model.state.value == "failed")
        await unavailable(server.generate(), "failed")
        assert not server.app.health.serving()
        server.runner.loading.set()
        await server.recorder.until(lambda: server.model.state.value == "ready")


async def test_an_error_within_an_rpc(
    scripted: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("internal words")

    with monkeypatch.context() as patch:
        patch.setattr("llm_serving_engine.server.inference_service.encode_event", broken)
        patch.setattr("llm_serving_engine.server.inference_service.encode_answer", broken)
        broken_stream = scripted.stream(request_id="broken", max_tokens=4000)
        for call in (scripted.generate(), read_all(broken_stream)):
            error = await error_of(call)
            assert error.code() is grpc.StatusCode.INTERNAL
            assert "internal words" not in str(error)
    assert caplog.text.count("ZeroDivisionError: internal words") == 2
    await scripted.recorder.state("broken", State.FAILED)
    assert (await scripted.generate()).text
    assert scripted.slots_in_use == 0


async def test_an_unknown_method(scripted: RunningServer) -> None:
    error = await error_of(raw(scripted, b"", "Nothing"))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_that_is_taken(scripted: RunningServer) -> None:
    for part, port in (("grpc", scripted.app.grpc_port), ("http", scripted.app.http_port)):
        ports = {"grpc": {"port": 0}, "http": {"port": 0}, part: {"port": port}}
        config = load_config(flags={**ports, "model": {"backend": "scripted"}})
        with pytest.raises(ConfigError, match=rf"{port} for (gRPC|HTTP)"):
            App(config, ServedModel("scripted", Path(), config))


async def test_a_port_that_will_be_listened_on() -> None:
    config = HttpConfig(port=0)
    first = HttpListener(Starlette(), config)
    with pytest.raises(ConfigError, match=f"{first.port} for HTTP"):
        HttpListener(Starlette(), HttpConfig(port=first.port))
    await first.stop()
