"""Every backend behind the whole server."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from backend_cases import CASES, BackendCase, examples_on_path, skip_where_missing
from ggml_model import write_ggml_model
from google.rpc import error_details_pb2
from running_server import (
    SAME_BITS,
    GatedRunner,
    RunningServer,
    asked,
    detail,
    error_of,
    read_all,
    serving,
)

from llm_serving_engine.backends import registry
from llm_serving_engine.backends.backend import LoadReport
from llm_serving_engine.scheduler.lifecycle import Event
from llm_serving_engine.scheduler.step import Output
from llm_serving_engine.server.model import ModelState
from llm_serving_engine.v1 import generation_pb2, models_pb2

STREAMS = 8
PROMPTS = (
    "Once upon a time",
    "The scheduler",
    "A request arrives",
    "time and time again",
    "`server/config.py` é 😀",
    "and then there was a very much longer beginning of it all, once upon the time of " * 2,
    "x",
    "Decisions",
)


@pytest_asyncio.fixture(
    scope="module", loop_scope="session", params=CASES, ids=lambda case: str(case.name)
)
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningServer]:
    case: BackendCase = request.param
    skip_where_missing(case)
    path = case.write_model(tmp_path_factory.mktemp("model"))
    runner = asdict(replace(case.config, sequences=STREAMS, context_per_sequence=None))
    with examples_on_path():
        model = {"backend": case.backend, "runner": runner}
        async with serving(path, model=model, scheduler=SAME_BITS) as server:
            yield server


def requests(max_tokens: int = 24) -> list[dict[str, Any]]:
    return [
        {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "sampling": {"temperature": 0.0 if number % 2 else 1.0, "seed": number},
        }
        for number, prompt in enumerate(PROMPTS)
    ]


async def answer_of(server: RunningServer, request: dict[str, Any]) -> tuple[str, list[int]]:
    """The text and tokens of a stream."""
    events = await read_all(server.inference.Stream(asked(**request)))
    deltas = [event.delta for event in events[1:-1]]
    text = "".join(delta.text for delta in deltas)
    return text, [token for delta in deltas for token in delta.token_ids]


async def test_eight_streams_are_each_what_it_is_alone(served: RunningServer) -> None:
    alone = [await answer_of(served, one) for one in requests()]
    steps_before = len(served.recorder.steps)
    taken = len(served.recorder.states)
    with served.runner_held():
        answers = [asyncio.create_task(answer_of(served, one)) for one in requests()]
        await served.recorder.taken(taken + len(answers))
    together = await asyncio.gather(*answers)
    assert together == alone
    assert all(len(tokens) == 24 for _, tokens in alone)
    # They really ran together.
    rows = [len(step.runs) for step, _ in served.recorder.steps[steps_before:]]
    assert max(rows) == STREAMS
    assert served.slots_in_use == 0


async def test_more_streams_than_slots(served: RunningServer) -> None:
    alone = [await answer_of(served, one) for one in requests(8)]
    together = await asyncio.gather(*(answer_of(served, one) for one in requests(8) * 3))
    assert together == alone * 3


async def test_generate_is_stream_in_one_answer(served: RunningServer) -> None:
    (request, *_) = requests()
    text, tokens = await answer_of(served, request)
    answer = await served.inference.Generate(asked(**request))
    assert (answer.text, list(answer.token_ids)) == (text, tokens)


async def test_a_stop_sequence_ends_the_text_before_it(served: RunningServer) -> None:
    (request, *_) = requests()
    text, _ = await answer_of(served, request)
    stop = text[5:8]
    answer = await served.inference.Generate(asked(**request, stop=[stop]))
    assert answer.text == text[: text.index(stop)]
    assert answer.finish_reason == generation_pb2.FINISH_REASON_STOP_SEQUENCE


async def test_a_full_context_ends_the_output(served: RunningServer) -> None:
    context = served.model.context_per_sequence
    ids = [40 + number % 50 for number in range(context - 3)]
    # Without max_tokens, the output takes what room there is.
    message = asked(prompt_tokens={"ids": ids})
    message.ClearField("max_tokens")
    answer = await served.inference.Generate(message)
    assert answer.finish_reason == generation_pb2.FINISH_REASON_CONTEXT_LENGTH
    assert answer.usage.completion_tokens in (3, 4)
    error = await error_of(served.generate(prompt_tokens={"ids": ids}, max_tokens=4))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == "max_tokens"


async def test_log_probabilities(served: RunningServer) -> None:
    answer = await served.generate("time", top_logprobs=2)
    assert len(answer.logprobs) == len(answer.token_ids) == 8
    assert all(len(one.top) == 2 for one in answer.logprobs)


async def test_the_text_of_a_prompt_and_back(served: RunningServer) -> None:
    tokenizer = served.model.tokenizer
    for prompt in PROMPTS:
        tokens = tokenizer.encode(prompt, special=False)
        assert all(0 <= token < tokenizer.vocabulary_size for token in tokens)
        text = b"".join(map(tokenizer.piece, tokens)).decode()
        assert text.removeprefix(" ") == prompt


async def test_streams_go_on_where_the_runner_is_lost(served: RunningServer) -> None:
    (request, *_) = requests(200)
    expected = await answer_of(served, request)
    stream = served.inference.Stream(asked(**request, request_id="survivor"))
    sequence = await served.recorder.produced("survivor", 20)
    process = served.signal_runner(signal.SIGKILL)
    events = await read_all(stream)
    assert sequence.times(Event.LOSE) == 1
    assert "".join(event.delta.text for event in events) == expected[0]
    assert [token for event in events for token in event.delta.token_ids] == expected[1]
    # The next tests want a runner that is there.
    await served.recorder.until(
        lambda: served.model.runner_process_id != process and served.model.state is ModelState.READY
    )
    assert await answer_of(served, request) == expected


async def test_what_a_client_can_read_of_it(served: RunningServer) -> None:
    answer = await served.models.GetModel(models_pb2.GetModelRequest())
    assert answer.model.backend == served.model.backend
    assert answer.model.capabilities.sequences_max == STREAMS
    assert answer.model.capabilities.logprobs


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
async def test_the_same_answers_where_classes_take_slots_from_each_other(
    case: BackendCase, tmp_path: Path
) -> None:
    skip_where_missing(case)
    runner = asdict(replace(case.config, sequences=2))
    path, model = case.write_model(tmp_path), {"backend": case.backend, "runner": runner}
    with examples_on_path():
        async with serving(path, model=model, scheduler=SAME_BITS) as server:
            await _take_slots(server)


async def _take_slots(server: RunningServer) -> None:
    asked_for = requests(30)
    alone = [await answer_of(server, one) for one in asked_for]

    def ask(priority: int) -> list[asyncio.Task[tuple[str, list[int]]]]:
        return [
            asyncio.create_task(answer_of(server, {**one, "priority": priority}))
            for one in asked_for
        ]

    with server.runner_held():
        low = ask(1)
        await server.recorder.taken(2 * len(asked_for))
    await server.recorder.until(lambda: server.slots_in_use == 2)
    with server.runner_held():
        high = ask(4)
        await server.recorder.taken(3 * len(asked_for))
    assert await asyncio.gather(*high) == alone
    assert await asyncio.gather(*low) == alone
    assert server.model.engine.scheduler.totals.preemptions > 0


# Which backend


@pytest.mark.parametrize(
    ("begins", "backend"), [(b"GGUF", "llama.cpp"), (b"lmgg", "ctransformers"), (b"", "llama.cpp")]
)
def test_the_file_decides(begins: bytes, backend: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(begins)
    assert registry.choose("auto", path) == backend
    assert registry.choose("scripted", path) == "scripted"
    assert registry.choose("auto", tmp_path / "nothing") == "llama.cpp"


async def test_a_legacy_file_is_served_without_being_told_how(tmp_path: Path) -> None:
    skip_where_missing(CASES[2])
    path = write_ggml_model(tmp_path / "old.bin", "gpt_neox")
    runner = {"architecture": "gpt_neox", "sequences": 2}
    async with serving(path, model={"backend": "auto", "runner": runner}) as server:
        answer = await server.models.GetModel(models_pb2.GetModelRequest())
        assert answer.model.backend == "ctransformers"
        assert (answer.model.architecture, answer.model.quantization) == ("gpt_neox", "F32")
        assert answer.model.training_context == 256
        assert len((await server.generate("once upon")).token_ids) == 8
        error = await error_of(
            server.inference.Generate(
                asked(chat={"messages": [{"role": "user", "content": "hello"}]})
            )
        )
        assert detail(error, error_details_pb2.BadRequest).field_violations[0].field == "chat"


READING = """
import sys
from pathlib import Path
from llm_serving_engine.backends.backend import BackendConfig
from llm_serving_engine.backends.registry import load_factory
config = BackendConfig(architecture="gpt2")
tokenizer = load_factory("ctransformers").load_tokenizer(Path(sys.argv[1]), config)
print(len(tokenizer.encode("once upon", special=False)), "ctransformers" in sys.modules)
"""


def test_the_servers_process_never_has_its_library(tmp_path: Path) -> None:
    path = write_ggml_model(tmp_path / "old.bin", "gpt2")
    command = [sys.executable, "-c", READING, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # "once" and " upon"; no token is "once" without the space before it.
    assert (done.returncode, done.stdout, done.stderr) == (0, "5 False\n", "")


# What a backend cannot do


class WordlessRunner(GatedRunner):
    """A backend without log-probabilities."""

    async def start(self, on_vocabulary_read: Callable[[], None] | None = None) -> LoadReport:
        report = await super().start(on_vocabulary_read)
        able = report.capabilities._replace(outputs=Output.SAMPLE)
        self._report = report._replace(capabilities=able)
        return self._report


async def test_what_the_backend_cannot_do_is_refused_by_the_fields_name() -> None:
    async with serving(make_runner=WordlessRunner) as server:
        server.runner.open()
        error = await error_of(server.generate(top_logprobs=0))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
        assert violation.field == "top_logprobs"
        assert "has no log-probabilities" in violation.description
        answer = await server.models.GetModel(models_pb2.GetModelRequest())
        assert not answer.model.capabilities.logprobs
        assert (await server.generate()).usage.completion_tokens == 8
