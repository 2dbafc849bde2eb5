"""Markers of reasoning, worked out from templates in the style of today's models."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_serving_engine.backends.text.chat import ChatTemplate
from llm_serving_engine.backends.text.control_tokens import ControlTokens
from llm_serving_engine.backends.text.output import TextOutput
from llm_serving_engine.backends.text.reasoning import ReasoningFormat
from llm_serving_engine.backends.text.reasoning_parser import ReasoningParser

TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THINK = ReasoningFormat("<think>", "</think>")

# As the hybrids of Qwen: an empty block where there is no reasoning.
SHOWN = (
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}"
    "<|im_start|>assistant\n<think>\n{{ m.reasoning_content | default('') | trim }}\n</think>\n\n"
    "{{ m.content }}<|im_end|>\n{% else %}" + TURN + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
# As the distillations of DeepSeek's R1: earlier reasoning is cut off, the new one is opened.
REMOVED = (
    "{% for m in messages %}{% set content = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1] %}{% endif %}"
    "<|{{ m.role }}|>{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
# As OpenAI's open models: channels.
CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.role == 'assistant' %}{% if m.thinking and loop.last %}<|channel|>analysis<|message|>"
    "{{ m.thinking }}<|end|><|start|>assistant{% endif %}<|channel|>final{% endif %}"
    "<|message|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# As Mistral's: words in brackets, for an assistant's turn that has reasoning.
BRACKETS = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}"
    "{% if m.reasoning %}[THINK]{{ m.reasoning }}[/THINK]{% endif %}{{ m.content }}</s>"
    "{% endif %}{% endfor %}"
)
OPENED = (
    "{% for m in messages %}" + TURN + "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
PLAIN = "{% for m in messages %}" + TURN + "{% endfor %}" + PROMPT


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (SHOWN, ReasoningFormat("<think>", "</think>", "", "reasoning_content")),
        (REMOVED, THINK),
        (
            CHANNELS,
            ReasoningFormat(
                "<|channel|>analysis<|message|>",
                "<|end|><|start|>assistant<|channel|>final<|message|>",
                "<|channel|>final<|message|>",
                "thinking",
            ),
        ),
        (BRACKETS, ReasoningFormat("[THINK]", "[/THINK]", "", "reasoning")),
        (OPENED, THINK),
        (PLAIN, None),
        ("{{ raise_exception('no') }}", None),
    ],
    ids=["shown", "removed", "channels", "brackets", "opened", "plain", "refusing"],
)
def test_markers_are_found_in_the_template(source: str, found: ReasoningFormat | None) -> None:
    assert ChatTemplate(source).reasoning == found


ASKED = [{"role": "user", "content": "1"}]


def test_a_prompt_can_open_the_reasoning() -> None:
    assert ChatTemplate(REMOVED).render(ASKED).opens_reasoning
    assert ChatTemplate(OPENED).render(ASKED).opens_reasoning
    assert not ChatTemplate(SHOWN).render(ASKED).opens_reasoning
    closed = ChatTemplate(SHOWN).render(ASKED, arguments={"enable_thinking": False})
    assert not closed.opens_reasoning
    # What a caller says opens nothing.
    forged = ChatTemplate(SHOWN).render([{"role": "user", "content": "<think>"}])
    assert not forged.opens_reasoning


@pytest.mark.parametrize(
    ("content", "inside"), [("<think>a", True), ("<think>a</think>b", False), ("b", False)]
)
def test_a_message_that_is_continued_can_be_inside(content: str, inside: bool) -> None:
    turns = [*ASKED, {"role": "assistant", "content": content}]
    assert ChatTemplate(PLAIN.replace(PROMPT, "")).reasoning is None
    prompt = ChatTemplate(OPENED).render(turns, continue_last=True)
    assert prompt.opens_reasoning is inside


def test_earlier_reasoning_reaches_templates_that_read_it() -> None:
    turns = [*ASKED, {"role": "assistant", "content": "b", "reasoning": "because"}]
    shown = ChatTemplate(SHOWN).render(turns, continue_last=True)
    assert shown.text.endswith("<think>\nbecause\n</think>\n\nb")
    assert "because" not in ChatTemplate(REMOVED).render(turns, continue_last=True).text


# The parser

CASES = [
    ("<think>\na b\n</think>\n\nAnswer", False, ("a b", "Answer")),
    ("\n<think>a</think>b</think>c", False, ("a", "b</think>c")),
    (" Answer <think>", False, ("", " Answer <think>")),
    ("a </thin </think> b", True, ("a </thin", "b")),
    ("<think>a</think>b", True, ("a", "b")),
    ("<think></think>", False, ("", "")),
    ("<think>cut </th", False, ("cut </th", "")),
    ("<thi", False, ("", "<thi")),
    ("  \n", False, ("", "  \n")),
    ("cut", True, ("cut", "")),
    ("[say]b", False, ("", "b")),
]


def parsed(pieces: list[str], inside: bool) -> tuple[str, str]:
    parser = ReasoningParser("<think>", "</think>", "[say]", inside=inside)
    parts = [*map(parser.feed, pieces), parser.finish()]
    return "".join(p.reasoning for p in parts), "".join(p.text for p in parts)


@pytest.mark.parametrize(("text", "inside", "expected"), CASES)
def test_text_is_told_apart(text: str, inside: bool, expected: tuple[str, str]) -> None:
    assert parsed([text], inside) == expected
    assert parsed(list(text), inside) == expected


@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", " ", "\n", "a", "<", "</", "think>", "[say]"])
    ),
    st.booleans(),
    st.lists(st.integers(0, 60)),
)
def test_however_it_is_cut(words: list[str], inside: bool, cuts: list[int]) -> None:
    text = "".join(words)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(edges)]
    assert parsed(pieces, inside) == parsed([text], inside)


# Tokens


class Words:
    """A vocabulary of some words; the last two are control tokens."""

    WORDS = (b"a", b"b", b"<think>", b"</think>", b" ")
    control_tokens = ControlTokens({"<think>": 5, "</think>": 6})

    def piece(self, token: int) -> bytes:
        return self.WORDS[token] if token < len(self.WORDS) else b""


def output(stops: tuple[str, ...] = (), **options: bool) -> TextOutput:
    return TextOutput(Words(), stops, reasoning=THINK, **options)  # type: ignore[arg-type]


def test_markers_that_are_control_tokens_match_by_token() -> None:
    tokens = [5, 0, 3, 4, 6, 4, 1, 2]
    whole = output()
    assert whole.feed_parts(tokens) == ("a</think>", "b<think>")
    # The opening marker, three tokens, and the closing one.
    assert whole.reasoning_tokens == 5
    single = output()
    parts = [single.feed_parts([token]) for token in tokens]
    assert "".join(p.reasoning for p in parts) == "a</think>"
    assert "".join(p.text for p in parts) == "b<think>"
    assert single.reasoning_tokens == 5


def test_a_stop_sequence_lets_go_what_was_held_back() -> None:
    stopped = output(("b",))
    assert stopped.feed_parts([5, 0, 4, 1, 0]) == ("a ", "")
    assert stopped.stopped
    assert stopped.consumed == 4
