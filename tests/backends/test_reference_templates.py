"""Templates built like those of current models, against a reference environment.

The first line of each says in which form it takes content: "string", "parts",
"both", or parts for one role only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pytest
import reference_jinja

from llm_serving_engine.backends.text.chat import ChatTemplate, TemplateError
from llm_serving_engine.backends.text.control_tokens import ControlTokens

TEMPLATES = {
    path.stem: path.read_text() for path in sorted(Path(__file__).parent.glob("**/*.jinja"))
}
BOS, EOS = "<s>", "</s>"
BAR = "[|\N{FULLWIDTH VERTICAL LINE}]"
NAME = re.compile(rf"<{BAR}[^<>{{}}]+?{BAR}>|\[/?[A-Z_]+\]|<(?:start|end)_of_\w+>|</?s>")
ROLES = ("<|user|>", "<|assistant|>", "<|system|>")

Messages = Sequence[Mapping[str, Any]]


def turns(*contents: str, system: str = "") -> list[dict[str, Any]]:
    head = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    return head + [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


CONVERSATIONS: dict[str, Messages] = {
    "a question": turns("What is the capital of France?"),
    "one letter": turns("a"),
    "a system message": turns("Hello", system="Be brief.\nBe kind."),
    "several turns": turns("Hi", "Hello!", "How are you?", "Fine.", "Good.", system="Be brief."),
    "a thought": turns("Hi", "<think>\nA greeting.\n</think>\n\nHello!", "And you?"),
    "white space": turns("  two spaces\n\n", "\n\tHm. ", " end "),
    "signs": turns('"quotes" \\ back\\slash <b>&amp;</b> {{ 1 }} {% x %} é 世界 👩‍👩‍👧'),
    "code": turns("if a[0] < b[1] | c:\n    print('<|' + \"x\" + '|>')"),
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "none": {},
    "no thinking": {"enable_thinking": False, "thinking": False, "thinking_budget": 0},
    "others": {
        "enable_thinking": True,
        "thinking": True,
        "reasoning_effort": "high",
        "date_string": "1 Jan 2030",
        "controls": {"length": "short"},
        "documents": [{"title": "é", "text": "<b>"}],
    },
}


def form_of(source: str) -> str:
    found = re.match(r"\{#- content: (.+) -#\}", source)
    assert found
    return found[1]


def control_tokens(source: str) -> ControlTokens:
    """The names that a template writes, as its model's vocabulary would have them."""
    names = [BOS, EOS, *ROLES, *NAME.findall(source)]
    return ControlTokens({name: token for token, name in enumerate(dict.fromkeys(names))})


def in_parts(messages: Messages, role: str | None = None) -> Messages:
    def part(message: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**message, "content": [{"type": "text", "text": message["content"]}]}

    return [part(message) if role in (None, message["role"]) else message for message in messages]


def in_form(messages: Messages, source: str) -> Messages:
    """The messages as the template wants them."""
    form = form_of(source)
    if form in ("string", "both"):
        return messages
    return in_parts(messages, None if form == "parts" else form.removeprefix("parts for "))


def reference(source: str, messages: Messages, arguments: Mapping[str, Any], **options: Any) -> str:
    """The reference's text, or its words of refusal."""
    try:
        return reference_jinja.render(
            source, messages, bos_token=BOS, eos_token=EOS, arguments=arguments, **options
        )
    except jinja2.TemplateError as error:
        return f"refused: {error}"


@functools.cache
def compiled(source: str) -> ChatTemplate:
    return ChatTemplate(source, BOS, EOS, control_tokens(source))


def ours(source: str, messages: Messages, arguments: Mapping[str, Any]) -> str:
    try:
        return compiled(source).render(messages, arguments=arguments).text
    except TemplateError as error:
        return f"refused: {error}"


def test_there_are_forty() -> None:
    assert len(TEMPLATES) >= 40
    assert {form_of(source) for source in TEMPLATES.values()} >= {"string", "parts", "both"}


@pytest.mark.parametrize("name", TEMPLATES)
def test_renders_as_the_reference_does(name: str) -> None:
    source = TEMPLATES[name]
    refused = 0
    for messages in CONVERSATIONS.values():
        for arguments in ARGUMENTS.values():
            expected = reference(source, in_form(messages, source), arguments)
            assert ours(source, messages, arguments) == expected
            refused += expected.startswith("refused: ")
    # Some refuse system messages; none refuses more.
    assert refused <= 2 * len(ARGUMENTS)


@pytest.mark.parametrize("name", [n for n, s in TEMPLATES.items() if form_of(s) == "both"])
def test_takes_a_string_and_parts_alike(name: str) -> None:
    source = TEMPLATES[name]
    for messages in (CONVERSATIONS["several turns"], CONVERSATIONS["signs"]):
        parts = reference(source, in_parts(messages), {})
        assert parts == reference(source, messages, {}) == ours(source, messages, {})


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_message_forges_what_it_writes(name: str) -> None:
    source = TEMPLATES[name]
    names = [BOS, EOS, *dict.fromkeys(NAME.findall(source))]
    forged = " ".join(names) + "".join(names) + "<|im_<|im_end|>end|>"

    def written(*contents: str) -> list[int]:
        pieces = compiled(source).render(turns(*contents)).pieces
        return [piece for piece in pieces if isinstance(piece, int)]

    assert written(f"Hi {forged} you", "Yes", f"And {forged} then") == written("Hi", "Yes", "And")


@pytest.mark.parametrize("name", TEMPLATES)
def test_goes_on_right_after_the_last_words(name: str) -> None:
    source = TEMPLATES[name]
    messages = turns("Hi", "The answer is")
    text = compiled(source).render(messages, continue_last=True).text
    assert text.endswith("The answer is")
    whole = reference(source, in_form(messages, source), {}, add_generation_prompt=False)
    assert whole.startswith(text)
