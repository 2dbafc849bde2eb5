"""Which chat template a server uses, and what it says where none can be used."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from running_server import RunningServer, detail, error_of, serving

from llm_serving_engine.backends.backend import LoadError
from llm_serving_engine.backends.text import template_bounds
from llm_serving_engine.backends.text.chat import ROLES
from llm_serving_engine.server.model_text import TEMPLATE_BYTES_MAX
from llm_serving_engine.v1 import inference_pb2, models_pb2

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}
GIVEN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{{ mood }}"


async def rendered(server: RunningServer, chat: Any) -> str:
    """What the template made of a conversation, with control tokens shown."""
    request = inference_pb2.TokenizeRequest(chat=chat)
    return b"".join((await server.inference.Tokenize(request)).tokens).decode()


async def test_a_template_from_a_file(
    tiny_model_without_template_path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "given.jinja"
    file.write_text(GIVEN)
    model = {"chat_template": str(file), "template_arguments": {"mood": "merry"}}
    async with serving(tiny_model_without_template_path, model=model) as server:
        assert await rendered(server, HELLO) == "<s> <user>hello</s> merry"
        listed = await server.models.GetModel(models_pb2.GetModelRequest())
        assert listed.model.capabilities.chat


async def test_the_token_that_the_template_ends_with_ends_the_output(
    tiny_model_path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "given.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}<|user|>{% endfor %}")
    async with serving(tiny_model_path, model={"chat_template": str(file)}) as server:
        tokenizer = server.model.tokenizer
        (end,) = server.model.text.stop_tokens - tokenizer.stop_tokens
        assert tokenizer.name(end) == b"<|user|>"
        bias = {"logit_bias": {end: 100.0}}
        answer = await server.generate("hello", ignore_eos=False, sampling=bias)
        assert (answer.text, list(answer.token_ids)) == ("", [])
        assert answer.finish_reason == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file"),
        (b"\n{% if %}", "is not valid: line 2: "),
        (b"\xff", "is not UTF-8"),
        (b" " * (TEMPLATE_BYTES_MAX + 1), f"has more than {TEMPLATE_BYTES_MAX} bytes"),
    ],
)
async def test_a_file_that_is_no_template(
    content: bytes | None, problem: str, tiny_model_path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bad.jinja"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LoadError, match=problem) as raised:
        async with serving(tiny_model_path, model={"chat_template": str(file)}):
            pass
    assert str(raised.value).startswith(f"model.chat_template {file}")


async def test_a_file_of_the_greatest_size(tiny_model_path: Path, tmp_path: Path) -> None:
    file = tmp_path / "long.jinja"
    file.write_text(GIVEN + "{#" + " " * (TEMPLATE_BYTES_MAX - len(GIVEN) - 4) + "#}")
    async with serving(tiny_model_path, model={"chat_template": str(file)}) as server:
        assert "hello" in await rendered(server, HELLO)


async def test_a_model_whose_template_is_broken_says_where(
    write_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_tiny_model(tmp_path / "broken.gguf", chat_template="{{ 1 }}\n{% if %}")
    async with serving(path) as server:
        error = await error_of(server.generate(chat=HELLO))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
        assert violation.field == "chat"
        assert "cannot chat: the chat template is not valid: line 2: " in violation.description
        assert (await server.generate("hello")).text


async def test_a_model_whose_template_loops_for_ever_serves_prompts(
    write_tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_bounds, "RUN_SECONDS_MAX", 0.05)
    turns = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    path = write_tiny_model(tmp_path / "loop.gguf", chat_template=turns)
    async with serving(path) as server:
        error = await error_of(server.generate(chat=HELLO))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "cannot chat: the chat template takes more than" in str(error.details())
        assert (await server.generate("hello")).text


async def test_a_template_that_loops_on_some_messages_refuses_these(
    write_tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_bounds, "RUN_SECONDS_MAX", 0.5)
    turns = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}"
        "{% if 'forever' in messages[0].content %}" + turns + "{% endif %}"
    )
    path = write_tiny_model(tmp_path / "loop.gguf", chat_template=template)
    async with serving(path) as server:
        slow = {"messages": [{"role": "user", "content": "forever"}]}
        error = await error_of(server.generate(chat=slow))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "takes more than" in str(error.details())
        assert (await server.generate(chat=HELLO)).token_ids


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def observing(
    tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningServer]:
    """A server whose chat template names the role `observation`."""
    file = tmp_path_factory.mktemp("template") / "roles.jinja"
    file.write_text(GIVEN + "{% if mood in ['observation', '<|user|>'] %}{% endif %}")
    async with serving(tiny_model_path, model={"chat_template": str(file)}) as server:
        yield server


@pytest.mark.parametrize("role", [*ROLES, "observation"])
async def test_roles_that_are_common_or_that_the_template_names(
    observing: RunningServer, role: str
) -> None:
    answer = await observing.generate(chat={"messages": [{"role": role, "content": "hello"}]})
    assert answer.usage.completion_tokens == 8


@pytest.mark.parametrize(
    ("role", "problem"),
    [
        ("<|user|>", "is not a letter, digit, underscore, dot, or hyphen"),
        ("a b", "is not a letter"),
        ("User", "is 'User'; it can be system, developer, user, assistant, tool, function, or"),
        ("observ", "is 'observ'"),
        ("r" * 999, "rrr; it can be system"),
    ],
)
async def test_other_roles_are_refused(observing: RunningServer, role: str, problem: str) -> None:
    call = observing.generate(chat={"messages": [{"role": role, "content": "hello"}]})
    error = await error_of(call)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert problem in str(error.details())
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.field == "chat.messages[0].role"
