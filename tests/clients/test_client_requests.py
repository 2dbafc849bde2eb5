from __future__ import annotations

import pytest

from llm_serving_engine.clients.requests import (
    GenerateOptions,
    Message,
    generate_request,
    tokenize_request,
    watch_request,
)
from llm_serving_engine.v1 import generation_pb2


def test_a_text_prompt_with_nothing_else_sets_nothing_else():
    request = generate_request("hello", {})
    assert [field.name for field, _ in request.ListFields()] == ["prompt"]


def test_every_option_lands_in_its_field():
    request = generate_request(
        "hello",
        {
            "model": "tiny",
            "request_id": "r1",
            "max_tokens": 7,
            "temperature": 0.5,
            "top_p": 0.25,
            "min_p": 0.125,
            "top_k": 3,
            "seed": 2**63,
            "repetition_penalty": 1.5,
            "presence_penalty": -1.0,
            "frequency_penalty": 2.0,
            "logit_bias": {5: -100.0},
            "stop": ["a", "b"],
            "ignore_eos": True,
            "top_logprobs": 2,
            "priority": "critical",
            "cache_salt": "s",
            "stop_token_ids": [4, 5],
            "min_tokens": 2,
            "parse_special": True,
        },
    )
    sampling = generation_pb2.Sampling(
        temperature=0.5,
        top_p=0.25,
        min_p=0.125,
        top_k=3,
        seed=2**63,
        repetition_penalty=1.5,
        presence_penalty=-1.0,
        frequency_penalty=2.0,
        logit_bias={5: -100.0},
    )
    assert request.sampling == sampling
    assert (request.model, request.request_id, request.max_tokens) == ("tiny", "r1", 7)
    assert (list(request.stop), request.ignore_eos) == (["a", "b"], True)
    assert (request.top_logprobs, request.cache_salt) == (2, "s")
    assert request.priority == generation_pb2.PRIORITY_CRITICAL
    assert (list(request.stop_token_ids), request.min_tokens) == ([4, 5], 2)
    assert request.parse_special


def test_options_of_conversations_land_in_the_chat():
    options: GenerateOptions = {
        "template_arguments": {"enable_thinking": False},
        "continue_last": True,
    }
    request = generate_request([Message("assistant", "Well")], options)
    assert request.chat.continue_last
    assert dict(request.chat.template_arguments) == {"enable_thinking": False}
    with pytest.raises(ValueError, match="continue_last, template_arguments: only for conv"):
        generate_request("hello", options)


def test_zero_is_a_value_and_none_is_not():
    request = generate_request("hello", {"temperature": 0, "top_k": None, "top_logprobs": 0})
    assert request.sampling.HasField("temperature")
    assert not request.sampling.HasField("top_k")
    assert request.HasField("top_logprobs")


def test_one_stop_text_is_not_a_list_of_letters():
    assert list(generate_request("hello", {"stop": "END"}).stop) == ["END"]


@pytest.mark.parametrize(
    "messages",
    [
        [Message("user", "hi")],
        [{"role": "user", "content": "hi"}],
    ],
)
def test_messages_become_a_chat(messages):
    chat = generation_pb2.Chat(messages=[generation_pb2.Message(role="user", content="hi")])
    assert generate_request(messages, {}).chat == chat
    assert tokenize_request(messages, "tiny").chat == chat


@pytest.mark.parametrize("tokens", [[1, 2, 3], (1, 2, 3), range(1, 4)])
def test_integers_become_tokens(tokens):
    assert list(generate_request(tokens, {}).prompt_tokens.ids) == [1, 2, 3]


def test_an_empty_list_is_left_for_the_server_to_refuse():
    assert generate_request([], {}).WhichOneof("input") == "prompt_tokens"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"priority": "urgent"}, "priority is 'urgent'; it can be one of: low, normal, high, crit"),
        ({"colour": "red"}, "there is no option colour; there are cache_salt, .*top_p"),
        ({"max_tokens": -1}, "max_tokens is -1; it can be an integer from 0 to 4294967295"),
        ({"seed": 2**64}, "seed is 18446744073709551616; it can be an integer from 0 to"),
        ({"temperature": "hot"}, "temperature is 'hot'; it can be a number"),
        ({"stop": 5}, "stop is 5; it can be a list, each a text"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids is .*; it can be a list, each an integer"),
        ({"logit_bias": {"a": 1}}, "logit_bias is .*; it can be a mapping of token ids to numb"),
        ({"ignore_eos": "maybe"}, "ignore_eos is 'maybe'; it can be True or False"),
    ],
)
def test_an_error_names_the_option_and_what_it_can_be(options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        generate_request("hello", options)


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("hello", {"max_tokens": -1}),
        ("hello", {"priority": "urgent"}),
        ("hello", {"colour": "red"}),
        ([-1], {}),
        (["a"], {}),
    ],
)
def test_what_the_wire_cannot_say_raises_at_once(prompt, options):
    with pytest.raises((TypeError, ValueError)):
        generate_request(prompt, options)


def test_an_interval_is_a_duration():
    assert watch_request("tiny", 0.25).interval.ToMilliseconds() == 250
    assert not watch_request("tiny", None).HasField("interval")
