"""A conversation to a prompt, by the model's own chat template.

Templates are Jinja programs that come with the model file, so whoever loads
a model trusts its template. The sandbox keeps it from the interpreter and from
changing what it is given, bounds `range`, and its output is bounded here; what
bounds its time is that trust alone. Messages are data to it, never code.

A message's text can spell the names of control tokens, and tokenizing the
rendered prompt makes them so: as with every server that works by templates.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

OUTPUT_CHARACTERS_MAX = 16 * 1024 * 1024


class TemplateError(Exception):
    """The template cannot be read, or does not take these messages.

    The message is one line, and may be shown to the caller: templates refuse
    conversations with it, such as "roles must alternate".
    """


class ChatTemplate:
    """A compiled template; `render` may be called from several threads at once."""

    def __init__(self, source: str, bos_text: str, eos_text: str) -> None:
        """Compile `source`. Raises TemplateError where it is not a valid template."""
        self._texts = {"bos_token": bos_text, "eos_token": eos_text}
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateError(
                f"the model's chat template is not valid: {_line(error)}"
            ) from error

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        characters_max: int = OUTPUT_CHARACTERS_MAX,
    ) -> str:
        """The prompt that asks the model for its next message.

        Args:
            messages: Each with "role" and "content".
            characters_max: The output is refused when it grows longer.

        Raises:
            TemplateError: The template refuses the messages, fails on them, or
                writes too much.
        """
        parts, written = [], 0
        try:
            for part in self._template.generate(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                tools=None,
                documents=None,
                **self._texts,
            ):
                parts.append(part)
                written += len(part)
                if written > characters_max:
                    raise TemplateError(f"the prompt is longer than {characters_max} characters")
        except TemplateError:
            raise
        except jinja2.TemplateError as error:
            raise TemplateError(_line(error)) from error
        except Exception as error:
            # A template can raise anything that an expression of Python can.
            raise TemplateError(f"the model's chat template failed: {_line(error)}") from error
        return "".join(parts)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks the model's own words for training: shown as they are."""

    tags = {"generation"}  # noqa: RUF012 - a class attribute by Jinja's protocol

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: Any, indent: int | None = None) -> str:
    """As `json.dumps`: Jinja's own escapes for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
