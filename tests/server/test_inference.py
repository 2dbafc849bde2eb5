"""Generate and Stream: the same answer in two shapes."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from running_server import RunningServer, asked, gated, read_all

from llm_serving_engine.backends.scripted import END_OF_SEQUENCE, next_token
from llm_serving_engine.scheduler.lifecycle import State
from llm_serving_engine.v1 import generation_pb2, inference_pb2

EOS = generation_pb2.FINISH_REASON_END_OF_SEQUENCE
STOP = generation_pb2.FINISH_REASON_STOP_SEQUENCE
MAX = generation_pb2.FINISH_REASON_MAX_TOKENS
CONTEXT = generation_pb2.FINISH_REASON_CONTEXT_LENGTH


def script(prompt: str, count: int) -> list[int]:
    """What the scripted model goes on with."""
    tokens = list(prompt.encode())
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[-count:]


def spelled(tokens: list[int]) -> str:
    return bytes(token for token in tokens if token != END_OF_SEQUENCE).decode()


async def both(server: RunningServer, prompt: str = "hello", **fields: Any) -> Any:
    """The answer of Generate, after checking that Stream says the same, in order."""
    request = asked(prompt, **fields)
    answer = await server.inference.Generate(request)
    events = await read_all(server.inference.Stream(request))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["delta"] * (len(kinds) - 2), "finished"]
    deltas = [event.delta for event in events[1:-1]]
    assert "".join(delta.text for delta in deltas) == answer.text
    assert [token for delta in deltas for token in delta.token_ids] == list(answer.token_ids)
    assert [one for delta in deltas for one in delta.logprobs] == list(answer.logprobs)
    finished = events[-1].finished
    assert finished.finish_reason == answer.finish_reason
    assert finished.usage.prompt_tokens == answer.usage.prompt_tokens
    assert finished.usage.completion_tokens == answer.usage.completion_tokens
    assert events[0].started.model == answer.model == server.model.name
    assert events[0].started.prompt_tokens == answer.usage.prompt_tokens
    assert answer.usage.completion_tokens == len(answer.token_ids)
    if fields.get("request_id"):
        assert events[0].started.request_id == answer.request_id == fields["request_id"]
    return answer


async def test_stream_and_generate_say_what_the_model_says(scripted: RunningServer) -> None:
    answer = await both(scripted, "a prompt", max_tokens=100)
    assert list(answer.token_ids) == script("a prompt", 100)
    assert answer.text == spelled(script("a prompt", 100))
    assert answer.finish_reason == MAX
    assert answer.usage == generation_pb2.Usage(prompt_tokens=8, completion_tokens=100)


@pytest.mark.parametrize("prompt", ["x", "Once upon a time", "日本語 😀 é", "the " * 40])
async def test_stream_and_generate_agree_on_a_model(tiny: RunningServer, prompt: str) -> None:
    # Random weights: many bytes that are no characters, so much that is held back.
    answer = await both(tiny, prompt, max_tokens=60)
    pieces = b"".join(tiny.model.tokenizer.piece(token) for token in answer.token_ids)
    assert answer.text == pieces.decode("utf-8", "replace")


async def test_the_builtin_model_writes_english(builtin: RunningServer) -> None:
    answer = await both(builtin, "The capital of France is", max_tokens=6)
    assert "Paris" in answer.text


async def test_a_chat(builtin: RunningServer) -> None:
    turn = {"role": "user", "content": "What is the capital of France? One word."}
    answer = await both(builtin, chat={"messages": [turn]}, max_tokens=16, ignore_eos=False)
    assert "Paris" in answer.text
    assert "<|" not in answer.text


async def test_prompt_tokens_are_used_as_they_are(tiny: RunningServer) -> None:
    tokens = tiny.model.tokenizer.encode("once upon a time", special=False)
    by_text = await tiny.generate("once upon a time")
    by_tokens = await tiny.generate(prompt_tokens={"ids": tokens})
    assert by_tokens.token_ids == by_text.token_ids
    assert by_tokens.usage.prompt_tokens == len(tokens)
    without_bos = await tiny.generate(prompt_tokens={"ids": tokens[1:]})
    assert without_bos.usage.prompt_tokens == len(tokens) - 1


def prompt_that_ends(within: int) -> tuple[str, int]:
    """A prompt whose answer ends by itself, and after how many tokens."""
    for index in range(1000):
        prompt = f"prompt {index}"
        tokens = script(prompt, within)
        if END_OF_SEQUENCE in tokens[2:]:
            return prompt, tokens.index(END_OF_SEQUENCE)
    raise AssertionError("no such prompt")


async def test_the_end_of_the_sequence(scripted: RunningServer) -> None:
    prompt, length = prompt_that_ends(within=40)
    answer = await both(scripted, prompt, max_tokens=64, ignore_eos=False)
    assert answer.finish_reason == EOS
    assert list(answer.token_ids) == script(prompt, length)
    assert answer.usage.completion_tokens == length


async def test_past_the_end_of_the_sequence(scripted: RunningServer) -> None:
    prompt, _ = prompt_that_ends(within=40)
    answer = await both(scripted, prompt, max_tokens=64, ignore_eos=True)
    assert answer.finish_reason == MAX
    assert list(answer.token_ids) == script(prompt, 64)
    assert END_OF_SEQUENCE in answer.token_ids


async def test_an_answer_that_ends_at_once_is_empty(tiny: RunningServer) -> None:
    (eos,) = tiny.model.tokenizer.stop_tokens
    answer = await both(tiny, sampling={"logit_bias": {eos: 100.0}}, ignore_eos=False)
    assert answer.finish_reason == EOS
    assert answer.text == ""
    assert list(answer.token_ids) == []


async def test_a_full_context(tiny: RunningServer) -> None:
    ids = [5] * 250
    answer = await both(tiny, prompt_tokens={"ids": ids}, max_tokens=None)
    assert answer.finish_reason == CONTEXT
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (250, 6)


async def test_the_default_of_max_tokens_is_configured() -> None:
    async with gated(generation={"max_tokens_default": 5}) as server:
        server.runner.open()
        answer = await server.generate(max_tokens=None)
        assert answer.usage.completion_tokens == 5
        assert answer.finish_reason == MAX


@pytest.mark.parametrize("length", [1, 2, 3, 7, 20])
async def test_stop_sequences_never_leak(scripted: RunningServer, length: int) -> None:
    prompt = "stop here"
    whole = spelled(script(prompt, 80))
    stop = whole[30 : 30 + length]
    cut = whole.index(stop)
    # A token is a byte here: every stop sequence spans several.
    answer = await both(scripted, prompt, max_tokens=80, stop=["never comes", stop])
    assert answer.text == whole[:cut]
    assert answer.finish_reason == STOP
    assert answer.usage.completion_tokens == cut + length


async def test_a_stop_sequence_that_only_begins_is_sent_at_the_end(scripted: RunningServer) -> None:
    whole = spelled(script("half", 20))
    answer = await both(scripted, "half", max_tokens=20, stop=[whole[-4:] + "?"])
    assert answer.text == whole
    assert answer.finish_reason == MAX


async def test_a_stop_sequence_finishes_the_request_and_frees_its_slot() -> None:
    async with gated(sequences=1) as server:
        server.runner.open()
        whole = spelled(script("stop", 60))
        answer = await server.generate(
            "stop", max_tokens=4000, stop=[whole[10:20]], request_id="stopped"
        )
        assert answer.finish_reason == STOP
        assert server.recorder.sequences["stopped"].state is State.FINISHED
        assert len(server.recorder.sequences["stopped"].output) == 20
        assert server.slots_in_use == 0


async def test_bytes_that_are_no_character(tiny: RunningServer) -> None:
    vocabulary = range(tiny.model.vocabulary_size)
    lead = next(t for t in vocabulary if tiny.model.tokenizer.piece(t) == "é".encode()[:1])
    answer = await both(tiny, max_tokens=3, sampling={"logit_bias": {lead: 100.0}})
    # The last one could still have become a character: it is cut, and left out.
    assert answer.text == "\N{REPLACEMENT CHARACTER}" * 2
    assert list(answer.token_ids) == [lead] * 3


async def test_log_probabilities(tiny: RunningServer) -> None:
    answer = await both(tiny, max_tokens=5, top_logprobs=20)
    assert len(answer.logprobs) == 5
    for token, position in zip(answer.token_ids, answer.logprobs, strict=True):
        assert position.chosen.token_id == token
        assert position.chosen.token == tiny.model.tokenizer.name(token)
        assert position.chosen == position.top[0]  # greedy
        values = [one.logprob for one in position.top]
        assert values == sorted(values, reverse=True)
        assert len({one.token_id for one in position.top}) == 20
        assert sum(map(math.exp, values)) <= 1


async def test_log_probabilities_are_the_models_own(tiny: RunningServer) -> None:
    plain = await tiny.generate(max_tokens=1, top_logprobs=20)
    bent = await tiny.generate(
        max_tokens=1,
        top_logprobs=20,
        sampling={"temperature": 3.0, "seed": 5, "logit_bias": {70: 5.0}},
    )
    assert bent.logprobs[0].top == plain.logprobs[0].top


async def test_log_probabilities_without_alternatives(tiny: RunningServer) -> None:
    answer = await tiny.generate(max_tokens=2, top_logprobs=0)
    assert [len(position.top) for position in answer.logprobs] == [0, 0]
    assert all(position.chosen.logprob < 0 for position in answer.logprobs)
    assert not (await tiny.generate(max_tokens=2)).logprobs


async def test_a_seed_repeats_itself(tiny: RunningServer) -> None:
    def drawn(seed: int | None) -> Any:
        sampling = {"temperature": 1.5, "top_p": 1.0, "min_p": 0.0, "top_k": 0}
        if seed is not None:
            sampling["seed"] = seed
        return tiny.generate(max_tokens=30, sampling=sampling)

    first, again, other = await drawn(7), await drawn(7), await drawn(8)
    assert first.token_ids == again.token_ids
    assert first.token_ids != other.token_ids
    assert (await drawn(None)).token_ids != (await drawn(None)).token_ids


async def test_a_bias_forces_and_forbids(tiny: RunningServer) -> None:
    free = await tiny.generate(max_tokens=4)
    forced = await tiny.generate(max_tokens=4, sampling={"logit_bias": {77: 100.0}})
    assert list(forced.token_ids) == [77] * 4
    first = free.token_ids[0]
    without = await tiny.generate(max_tokens=4, sampling={"logit_bias": {first: -100.0}})
    assert first not in without.token_ids


@pytest.mark.parametrize("penalty", ["repetition", "presence", "frequency"])
async def test_penalties_keep_tokens_from_coming_again(tiny: RunningServer, penalty: str) -> None:
    async def times(bias: float, **sampling: float) -> int:
        sampling = {"logit_bias": {77: bias}, **sampling}  # type: ignore[dict-item]
        answer = await tiny.generate(max_tokens=24, sampling=sampling)
        return list(answer.token_ids).count(77)

    # How far the token must be pushed to come at all depends on the weights.
    for bias in (2.0, 3.0, 4.0, 5.0, 6.0):
        plain = await times(bias)
        punished = await times(bias, **{f"{penalty}_penalty": 2.0})
        assert punished <= plain
        if punished < plain:
            return
    raise AssertionError("the penalty changes nothing")


async def test_timings_add_up(tiny: RunningServer) -> None:
    answer = await tiny.generate(max_tokens=10)
    timings = answer.timings

    def nanoseconds(name: str) -> int:
        return int(getattr(timings, name).ToNanoseconds())

    assert all(nanoseconds(name) >= 0 for name in ("queue", "prefill", "decode"))
    assert nanoseconds("prefill") > 0
    assert nanoseconds("decode") > 0
    # Each is rounded by itself.
    together = nanoseconds("queue") + nanoseconds("prefill")
    assert abs(nanoseconds("time_to_first_token") - together) <= 2


async def test_timings_of_an_answer_without_tokens(tiny: RunningServer) -> None:
    (eos,) = tiny.model.tokenizer.stop_tokens
    answer = await tiny.generate(sampling={"logit_bias": {eos: 100.0}}, ignore_eos=False)
    assert answer.timings.HasField("time_to_first_token")


async def test_the_server_makes_an_id(scripted: RunningServer) -> None:
    first, second = await scripted.generate(), await scripted.generate()
    assert first.request_id
    assert second.request_id
    assert first.request_id != second.request_id


async def test_two_live_requests_of_one_id() -> None:
    async with gated(sequences=2) as server:
        calls = [asyncio.ensure_future(server.generate(f"p{i}", request_id="same")) for i in (0, 1)]
        await server.recorder.until(lambda: len(server.model.engine.scheduler.live()) == 2)
        server.runner.open()
        answers = await asyncio.gather(*calls)
        assert [answer.request_id for answer in answers] == ["same", "same"]
        assert [list(answer.token_ids) for answer in answers] == [
            script(f"p{i}", 8) for i in (0, 1)
        ]


async def test_higher_classes_go_first() -> None:
    priorities = ["LOW", "UNSPECIFIED", "HIGH", "NORMAL", "CRITICAL", "HIGH"]
    async with gated(sequences=1) as server:
        critical = generation_pb2.PRIORITY_CRITICAL
        blocker = asyncio.ensure_future(server.generate(request_id="blocker", priority=critical))
        await server.runner.held(1)
        calls = []
        for index, name in enumerate(priorities):
            number = generation_pb2.Priority.Value(f"PRIORITY_{name}")
            request_id = f"{index} {name}"
            call = server.generate(request_id=request_id, priority=number, max_tokens=2)
            calls.append(asyncio.ensure_future(call))
            await server.recorder.until(lambda wanted=request_id: wanted in server.recorder.states)  # type: ignore[misc]
        server.runner.open()
        await asyncio.gather(blocker, *calls)
        sequences = server.recorder.sequences.values()
        order = sorted(sequences, key=lambda sequence: sequence.history[-1].at)
        assert [sequence.request.id for sequence in order] == [
            "blocker",
            "4 CRITICAL",
            "2 HIGH",
            "5 HIGH",
            "1 UNSPECIFIED",
            "3 NORMAL",
            "0 LOW",
        ]


async def test_the_first_event_comes_when_the_queue_is_left() -> None:
    async with gated(sequences=1) as server:
        first = server.stream(request_id="first")
        assert (await first.read()).started.request_id == "first"
        second = server.stream(request_id="second")
        waiting = asyncio.ensure_future(second.read())
        await server.recorder.until(lambda: "second" in server.recorder.states)
        assert not waiting.done()
        server.runner.open()
        assert (await waiting).started.request_id == "second"
        assert (await read_all(first))[-1].HasField("finished")
        assert (await read_all(second))[-1].HasField("finished")


async def test_a_delta_for_each_token_where_the_reader_keeps_up() -> None:
    async with gated(sequences=1) as server:
        stream = server.stream("one by one", max_tokens=5)
        assert (await stream.read()).HasField("started")
        for token in script("one by one", 5):
            server.runner.let()
            assert list((await stream.read()).delta.token_ids) == [token]
        assert (await stream.read()).HasField("finished")


async def test_tokenize(tiny: RunningServer) -> None:
    text = "once upon 😀 <s>"
    answer = await tiny.inference.Tokenize(inference_pb2.TokenizeRequest(text=text))
    assert answer.model == "tiny"
    assert list(answer.token_ids) == tiny.model.tokenizer.encode(text, special=False)
    assert answer.tokens[0] == b"<s>"
    assert b"".join(answer.tokens[1:]).decode().strip() == text


async def test_tokenize_agrees_with_the_usage(tiny: RunningServer) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    tokenized = await tiny.inference.Tokenize(inference_pb2.TokenizeRequest(chat=chat))  # type: ignore[arg-type]
    answer = await tiny.generate(chat=chat)
    assert answer.usage.prompt_tokens == len(tokenized.token_ids)
    assert b"<|user|>" in tokenized.tokens


async def test_tokenize_an_empty_text(scripted: RunningServer) -> None:
    answer = await scripted.inference.Tokenize(inference_pb2.TokenizeRequest(text=""))
    assert list(answer.token_ids) == []
