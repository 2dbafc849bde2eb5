"""What a chat template may take: time, and the size of what its operators make.

A template comes with a model's file and runs in the server's process, so one
that loops for ever must not hold up everybody. Each turn of a loop and each
call of a macro looks at the time. Multiplication and powers, by which a few
characters make gigabytes, look at the size of their result first.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import jinja2.exceptions
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox

RUN_SECONDS_MAX = 3.0
"""Processor time of one run. A usual one takes less than a millisecond."""
VALUE_SIZE_MAX = 16 * 1024 * 1024
"""Characters of a text, or entries of a list, that multiplication makes."""
POWER_BITS_MAX = 4096

_deadline: ContextVar[float] = ContextVar("deadline")


class TemplateTookTooLong(Exception):
    """A template has run for the time that it may take."""


class BoundedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with bounds."""

    intercepted_binops = frozenset({"*", "**"})

    def bounded(self, source: str, filename: str) -> jinja2.nodes.Template:
        """Parse a template, and have its loops and macros look at the time."""
        tree = self.parse(source, filename=filename)
        repeated: list[jinja2.nodes.For | jinja2.nodes.Macro | jinja2.nodes.CallBlock] = [
            *tree.find_all(jinja2.nodes.For),
            *tree.find_all(jinja2.nodes.Macro),
            *tree.find_all(jinja2.nodes.CallBlock),
        ]
        for node in repeated:
            look = jinja2.nodes.Call(
                jinja2.nodes.EnvironmentAttribute("look_at_time"), [], [], None, None
            )
            node.body.insert(0, jinja2.nodes.ExprStmt(look, lineno=node.lineno))
        return tree

    def look_at_time(self) -> None:
        """Raise TemplateTookTooLong where the run has used its time."""
        if time.thread_time() > _deadline.get():
            raise TemplateTookTooLong

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """Multiply, or raise to a power, where the result is not too large."""
        fits = _power_fits(left, right) if operator == "**" else _product_fits(left, right)
        if not fits:
            raise jinja2.exceptions.SecurityError(f"the result of {operator!r} is too large")
        return super().call_binop(context, operator, left, right)


@contextlib.contextmanager
def limited(seconds_max: float | None = None) -> Iterator[None]:
    """Give the templates that run in the block so much of this thread's processor time.

    Args:
        seconds_max: Default: RUN_SECONDS_MAX.
    """
    seconds = RUN_SECONDS_MAX if seconds_max is None else seconds_max
    token = _deadline.set(time.thread_time() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def _product_fits(left: Any, right: Any) -> bool:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | list | tuple) and isinstance(times, int):
            return len(value) * times <= VALUE_SIZE_MAX
    return True


def _power_fits(base: Any, exponent: Any) -> bool:
    if isinstance(base, int) and isinstance(exponent, int):
        return base.bit_length() * exponent <= POWER_BITS_MAX
    return True
