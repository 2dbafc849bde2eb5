from __future__ import annotations

import pytest

from llm_serving_engine.backends.text.chat import ChatTemplate, TemplateError

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "{{ 1 + 1 }}"}]


def render(source: str, **options: int) -> str:
    return ChatTemplate(source, "<s>", "</s>").render(MESSAGES, **options)


def test_blocks_are_trimmed_as_templates_expect() -> None:
    source = "{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}"
    assert render(source) == "user\nassistant\n"


def test_messages_are_data_and_not_code() -> None:
    assert render("{{ messages[1].content }}") == "{{ 1 + 1 }}"


def test_knows_the_models_own_tokens_and_asks_for_the_next_message() -> None:
    assert render("{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}") == "<s></s>True"


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ {'a': '<é>'} | tojson }}") == '{"a": "<é>"}'


def test_loops_can_be_left_and_the_models_words_be_marked() -> None:
    words = "{% generation %}{{ m.role }}{% endgeneration %}"
    source = "{% for m in messages %}" + words + "{% break %}{% endfor %}"
    assert render(source) == "user"


def test_dates_can_be_written() -> None:
    assert render("{{ strftime_now('%Y') | length }}") == "4"


def test_a_template_refuses_in_its_own_words() -> None:
    with pytest.raises(TemplateError, match=r"^roles must alternate$"):
        render("{{ raise_exception('roles must\nalternate') }}")


@pytest.mark.parametrize(
    "source",
    ["{{ 1 / 0 }}", "{{ messages[9].content }}", "{{ nothing.content }}", "{{ 'a' + 1 }}"],
)
def test_a_template_that_fails_is_an_error_of_one_line(source: str) -> None:
    with pytest.raises(TemplateError) as raised:
        render(source)
    assert str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("source", ["{% if %}", "{{ ", "{% frob %}"])
def test_a_template_that_cannot_be_read(source: str) -> None:
    with pytest.raises(TemplateError, match="not valid"):
        ChatTemplate(source, "", "")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{% for i in range(1000000) %}{% endfor %}",
    ],
)
def test_a_template_stays_in_its_sandbox(source: str) -> None:
    with pytest.raises(TemplateError):
        render(source)


def test_output_is_bounded() -> None:
    source = "{% for i in range(90000) %}xxxxxxxxxx{% endfor %}"
    assert len(render(source)) == 900_000
    with pytest.raises(TemplateError, match="longer than 1000 characters"):
        render(source, characters_max=1000)
