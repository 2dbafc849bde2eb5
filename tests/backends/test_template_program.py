from __future__ import annotations

import pytest

from llm_serving_engine.backends.text import template_bounds
from llm_serving_engine.backends.text.template_bounds import VALUE_SIZE_MAX, TemplateTookTooLong
from llm_serving_engine.backends.text.template_program import TemplateError, TemplateProgram

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "{{ 1 + 1 }}"}]


def render(source: str, **options: int) -> str:
    return TemplateProgram(source).run({"messages": MESSAGES}, **options)


def test_blocks_are_trimmed_as_templates_expect() -> None:
    source = "{% for m in messages %}\n  {% if true %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}"
    assert render(source) == "user\nassistant\n"


def test_messages_are_data_and_not_code() -> None:
    assert render("{{ messages[1].content }}") == "{{ 1 + 1 }}"


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ {'a': '<é>'} | tojson }}") == '{"a": "<é>"}'


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("ensure_ascii=True", '{"b": "\\u00e9", "a": 1}'),
        ("sort_keys=true", '{"a": 1, "b": "é"}'),
        ("separators=(',', ':')", '{"b":"é","a":1}'),
        ("indent=2", '{\n  "b": "é",\n  "a": 1\n}'),
    ],
)
def test_json_takes_the_options_that_templates_give(options: str, expected: str) -> None:
    assert render(f"{{{{ {{'b': 'é', 'a': 1}} | tojson({options}) }}}}") == expected


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


def test_a_failure_names_the_line() -> None:
    source = "{% for m in messages %}\n{{ m.role }}\n{{ m.nothing.there }}\n{% endfor %}"
    with pytest.raises(TemplateError, match=r"failed at line 3: .*no attribute 'nothing'"):
        render(source)


def test_a_failure_in_a_macro_names_the_line_in_the_macro() -> None:
    source = "{% macro half(x) %}\n{{ x / 0 }}\n{% endmacro %}\n{{ half(1) }}"
    with pytest.raises(TemplateError, match="at line 2: division by zero"):
        render(source)


@pytest.mark.parametrize("source", ["\n{% if %}", "\n{{ ", "\n{% frob %}", "\n{{ 'a' | frob }}"])
def test_a_template_that_cannot_be_read_names_the_line(source: str) -> None:
    with pytest.raises(TemplateError, match="not valid: line 2: "):
        TemplateProgram(source)


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


ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(99) }}",
    "caller": "{% macro f() %}{{ caller() }}{{ caller() }}{% endmacro %}"
    "{% macro g(n) %}{% call f() %}{% if n %}{{ g(n - 1) }}{% endif %}{% endcall %}{% endmacro %}"
    "{{ g(24) }}",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_a_template_that_takes_too_long_is_ended(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_bounds, "RUN_SECONDS_MAX", 0.05)
    with pytest.raises(TemplateTookTooLong):
        render(source)


def test_the_limit_of_time_cannot_be_set_from_within(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_bounds, "RUN_SECONDS_MAX", 0.05)
    with pytest.raises(TemplateTookTooLong):
        render("{% set environment = 1 %}{% set look_at_time = 1 %}" + ENDLESS["loops"])


@pytest.mark.parametrize("source", ["'a' * %d", "%d * 'a'", "([0] * %d) | length"])
def test_products_have_a_greatest_size(source: str) -> None:
    assert render(f"{{{{ ({source % VALUE_SIZE_MAX}) | string | length }}}}")
    with pytest.raises(TemplateError, match=r"the result of '\*' is too large"):
        render(f"{{{{ {source % (VALUE_SIZE_MAX + 1)} }}}}")


def test_powers_have_a_greatest_size() -> None:
    assert render("{{ 2 ** 2048 > 0 }}{{ 2 ** -1 }}{{ 1.5 ** 2 }}") == "True0.52.25"
    with pytest.raises(TemplateError, match=r"the result of '\*\*' is too large"):
        render("{{ 9 ** 9999 }}")
