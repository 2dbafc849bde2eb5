"""Compiles and runs a chat template: Jinja source in, text out.

Templates come with model files, and are written against the environment of
`transformers`: this one has the same settings, filters, and functions. Loading
a model means to trust its template. The sandbox keeps a template from the
interpreter and from changing what it is given, and bounds `range`; its time and
the sizes of what it makes are bounded (`template_bounds.py`).
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser

from llm_serving_engine.backends.text.template_bounds import (
    BoundedEnvironment,
    TemplateTookTooLong,
    limited,
)

OUTPUT_CHARACTERS_MAX = 16 * 1024 * 1024

_FILE = "<chat template>"


class TemplateError(Exception):
    """The template cannot be read, or does not take these messages.

    The message is one line that may be shown to the caller. Templates refuse
    conversations by it, such as "roles must alternate".
    """


class TemplateProgram:
    """A compiled template; `run` may be called from several threads at once."""

    def __init__(self, source: str) -> None:
        """Compile `source`. Raises TemplateError if it is not a valid template."""
        environment = _environment()
        try:
            code = environment.compile(environment.bounded(source, _FILE), filename=_FILE)
            self._template = jinja2.Template.from_code(
                environment, code, environment.make_globals(None)
            )
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(
                f"the chat template is not valid: line {error.lineno}: {_line(error.message)}"
            ) from error
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(f"the chat template is not valid: {_line(error)}") from error

    def run(
        self, variables: Mapping[str, Any], *, characters_max: int = OUTPUT_CHARACTERS_MAX
    ) -> str:
        """The text that the template writes.

        Args:
            variables: What it can read. It cannot change them.
            characters_max: Longer output is refused.

        Raises:
            TemplateError: The template refuses the variables, fails on them, or
                writes too much. Where it fails, the message names the line.
            TemplateTookTooLong: It has used the time that `limited` gives.
        """
        parts, written = [], 0
        try:
            with limited():
                for part in self._template.generate(variables):
                    parts.append(part)
                    written += len(part)
                    if written > characters_max:
                        raise TemplateError(
                            f"the prompt is longer than {characters_max} characters"
                        )
        except (TemplateError, TemplateTookTooLong):
            raise
        except _Refusal as error:
            raise TemplateError(_line(error)) from error
        except Exception as error:
            # A template can raise anything that an expression of Python can.
            where = _failing_line(error.__traceback__)
            raise TemplateError(
                f"the chat template failed at line {where}: {_line(error)}"
            ) from error
        return "".join(parts)


class _Refusal(jinja2.TemplateError):
    """The template called `raise_exception`."""


def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(
        {"tojson": _to_json},
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks the model's own words for training: shown as they are."""

    tags = {"generation"}  # noqa: RUF012 - a class attribute by Jinja's protocol

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        block = jinja2.nodes.CallBlock(self.call_method("_show"), [], [], body)
        return block.set_lineno(line)

    def _show(self, caller: Callable[[], str]) -> str:
        return caller()


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As `json.dumps`: without Jinja's own escapes for HTML."""
    text = json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    # Characters of the private planes may be placeholders (`placeholders.py`), which must survive.
    return _PRIVATE.sub(lambda found: json.loads(f'"{found[0]}"'), text) if ensure_ascii else text


_PRIVATE = re.compile(r"\\udb[89a-f][0-9a-f]\\ud[c-f][0-9a-f]{2}")


def _raise_exception(message: str) -> NoReturn:
    raise _Refusal(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


def _failing_line(traceback: TracebackType | None) -> int:
    """The line of the template at which an exception was raised; 0 where none is known."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _FILE:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _line(error: object) -> str:
    return " ".join(str(error).split()) or type(error).__name__
