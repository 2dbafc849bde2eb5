from __future__ import annotations

import pytest

from llm_serving_engine.backends.text import template_bounds
from llm_serving_engine.backends.text.template_bounds import VALUE_SIZE_MAX, TemplateTookTooLong
from llm_serving_engine.backends.text.template_program import TemplateError, TemplateProgram

MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "{{ 1 + 1 }}"}]


@pytest.fixture(autouse=True)
def _slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another limit ends, or none, is never ended for its time."""
    monkeypatch.setattr(template_bounds, "RUN_SECONDS_MAX", 60.0)


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


TOO_LARGE = "it makes a value that is too large"
HALF = VALUE_SIZE_MAX // 2
# How values become large: each makes one of the size that is put in.
MAKERS = {
    "times": "'a' * {size}",
    "times, turned": "{size} * 'a'",
    "plus": "'a' * {half} + 'a' * ({size} - {half})",
    "tilde": "'a' * {half} ~ 'a' * ({size} - {half})",
    "ljust": "'a'.ljust({size})",
    "center": "'a' | center({size})",
    "indent": "'a' | indent({size} - 1, true)",
    "replace": "('a' * 4096).replace('a', 'b' * ({size} // 4096 - 1)) ~ 'b' * ({size} % 4096)",
    "replace, filter": "'a' | replace('a', 'b' * ({size} - 1))",
    "format": "'%s' | format('a' * ({size} - 9))",
    "percent": "'%s' % ('a' * ({size} - 9))",
}


@pytest.mark.parametrize("source", MAKERS.values(), ids=MAKERS)
def test_values_have_a_greatest_size(source: str) -> None:
    fits = source.format(size=VALUE_SIZE_MAX, half=HALF)
    assert int(render(f"{{{{ ({fits}) | length }}}}")) > VALUE_SIZE_MAX - 8200
    with pytest.raises(TemplateError, match=TOO_LARGE):
        render(f"{{{{ {source.format(size=VALUE_SIZE_MAX + 8192, half=HALF)} }}}}")


# Each makes twice as much, or more, of what there was before: gigabytes, if nothing stops it.
DOUBLING = {
    "tilde": "{% set n.a = n.a ~ n.a %}",
    "plus": "{% set n.a = n.a + n.a %}",
    "block": "{% set b %}{{ n.a }}{{ n.a }}{% endset %}{% set n.a = b %}",
    "macro": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}{% set n.a = f(n.a) %}",
    "join": "{% set n.a = [n.a, n.a] | join %}",
    "join, method": "{% set n.a = ''.join([n.a, n.a]) %}",
    "separator": "{% set n.a = n.a.join(['x', 'y', 'z']) %}",
    "replace": "{% set n.a = n.a.replace('a', 'aa') %}",
    "replace, filter": "{% set n.a = n.a | replace('a', 'aa') %}",
    "map": "{% set n.a = [n.a] | map('replace', 'a', 'aa') | first %}",
    "format": "{% set n.a = '{0}{0}'.format(n.a) %}",
    "percent": "{% set n.a = '%s%s' % (n.a, n.a) %}",
    "format, filter": "{% set n.a = '%s%s' | format(n.a, n.a) %}",
    "lists as text": "{% set n.a = [n.a, n.a] | string %}",
    "lists": "{% set n.l = n.l + n.l %}",
    "shared lists": "{% set n.l = [n.l, n.l] %}{% set n.s = n.l | tojson %}",
    "written lists": "{% set n.l = [n.l, n.l] %}{{ n.l }}",
    "sum": "{% set n.l = [n.l, n.l] | sum(start=[]) %}",
    "numbers": "{% set n.i = n.i * n.i %}",
}


@pytest.mark.parametrize("step", DOUBLING.values(), ids=DOUBLING)
def test_what_doubles_is_stopped(step: str) -> None:
    start = "{% set n = namespace(a='a', l=['a'], i=3, s='') %}"
    with pytest.raises(TemplateError, match=TOO_LARGE):
        render(f"{start}{{% for _ in range(30) %}}{step}{{% endfor %}}")


@pytest.mark.parametrize(
    "source",
    [
        "'%*d' % (999999999, 1)",
        "'%999999999d' % 1",
        "'{:999999999}'.format(1)",
        "'{:{}}'.format(1, 999999999)",
        "'a\\t'.expandtabs(999999999)",
        "'a'.translate({97: 'b' * 9999999}).translate({98: 'c' * 9999999})",
        "[1] | batch(999999999, 0) | list",
        "[1] | slice(999999999) | list",
        "('a ' * 9999) | wordwrap(1, wrapstring='b' * 9999)",
    ],
)
def test_large_values_of_small_ones_are_refused(source: str) -> None:
    with pytest.raises(TemplateError, match=TOO_LARGE):
        render(f"{{{{ {source} }}}}")


def test_a_text_that_grows_in_a_loop_is_no_doubling() -> None:
    step = "{% set n.a = n.a ~ i ~ '%s' % 'b' + 'c'.replace('c', 'd') %}"
    source = f"{{% set n = namespace(a='') %}}{{% for i in range(999) %}}{step}{{% endfor %}}"
    assert render(f"{source}{{{{ n.a }}}}") == "".join(f"{number}bd" for number in range(999))


def test_powers_have_a_greatest_size() -> None:
    assert render("{{ 2 ** 2048 > 0 }}{{ 2 ** -1 }}{{ 1.5 ** 2 }}") == "True0.52.25"
    with pytest.raises(TemplateError, match=TOO_LARGE):
        render("{{ 9 ** 9999 }}")
