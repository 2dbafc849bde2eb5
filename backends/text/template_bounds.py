"""Limits a chat template's time, and the size of its values.

A template comes with a model's file and runs in the server's process, so one
that loops for ever, or doubles a text again and again, must not harm everybody.
Each turn of a loop and each call of a macro looks at the time. Whatever can make
much of little looks at the size of its result first (`template_sizes.py`), and
all that a run makes is counted.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import jinja2.exceptions
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import jinja2.visitor

from llm_serving_engine.backends.text import template_sizes
from llm_serving_engine.backends.text.template_sizes import TooLarge

RUN_SECONDS_MAX = 3.0
"""Processor time of one run. A usual one takes less than a millisecond."""
VALUE_SIZE_MAX = 16 * 1024 * 1024
"""Characters of a text, or entries of a list, that a template makes."""
RUN_SIZE_MAX = 64 * VALUE_SIZE_MAX
"""All of them in one run together: a loop that adds to a text makes it again in each turn."""
INTEGER_BYTES_MAX = 512

# Nothing but harm is known of them in chat templates.
_UNWANTED_FILTERS = ("urlize", "xmlattr", "pprint")
_UNWANTED_GLOBALS = ("lipsum",)
# They make a text of whatever is in a list.
_TEXT_FILTERS = ("string", "tojson", "safe", "e", "escape", "forceescape", "urlencode")


class TemplateTookTooLong(Exception):
    """A template has run for the time that it may take."""


class _Run:
    """The remaining limits of a run."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.thread_time() + seconds
        self._size = RUN_SIZE_MAX

    def look_at_time(self) -> None:
        if time.thread_time() > self._deadline:
            raise TemplateTookTooLong

    def take(self, size: int) -> None:
        self._size -= size
        if size > VALUE_SIZE_MAX or self._size < 0:
            raise TooLarge


_run: ContextVar[_Run] = ContextVar("run")


class BoundedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with bounds."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, filters: Mapping[str, Callable[..., Any]], **options: Any) -> None:
        """Make an environment.

        Args:
            filters: More than Jinja's own.
            options: Jinja's.
        """
        super().__init__(**options, finalize=_finalized)
        self.filters.update(filters)
        for name in _UNWANTED_FILTERS:
            del self.filters[name]
        for name in _UNWANTED_GLOBALS:
            del self.globals[name]
        for name, function in self.filters.items():
            self.filters[name] = _bounded_filter(name, function)

    def bounded(self, source: str, filename: str) -> jinja2.nodes.Template:
        """Parse a template, and have it look at its time and at the sizes of its texts."""
        tree: jinja2.nodes.Template = _Joining().visit(self.parse(source, filename=filename))
        repeated: list[jinja2.nodes.For | jinja2.nodes.Macro | jinja2.nodes.CallBlock] = [
            *tree.find_all(jinja2.nodes.For),
            *tree.find_all(jinja2.nodes.Macro),
            *tree.find_all(jinja2.nodes.CallBlock),
        ]
        for node in repeated:
            look = _call("look_at_time", [])
            node.body.insert(0, jinja2.nodes.ExprStmt(look, lineno=node.lineno))
        return tree

    def look_at_time(self) -> None:
        """Raise TemplateTookTooLong if the run has used its time."""
        _run.get().look_at_time()

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """What the body of a macro or of a block has written, as one text."""
        texts = list(parts)
        _take(sum(map(len, texts)))
        return "".join(texts)

    def join_texts(self, *values: Any) -> str:
        """The values as one text, as the operator `~` has it."""
        _take(sum(template_sizes.weight(value, VALUE_SIZE_MAX) for value in values))
        return "".join(map(str, values))

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        """Add, multiply, format, or raise to a power, where the result is not too large."""
        numbers = isinstance(left, int) and isinstance(right, int)
        if numbers and operator in ("*", "**"):
            digits = template_sizes.power if operator == "**" else template_sizes.product
            if digits(left, right) > INTEGER_BYTES_MAX:
                raise TooLarge
        elif operator == "+":
            _take(template_sizes.size(left) + template_sizes.size(right))
        elif operator == "*":
            _take(template_sizes.product(left, right))
        elif operator == "%" and isinstance(left, str):
            values = right if isinstance(right, tuple) else (right,)
            _take(template_sizes.formatted(left, values, VALUE_SIZE_MAX))
        return super().call_binop(context, operator, left, right)

    def call(
        self, context: jinja2.runtime.Context, function: Any, /, *args: Any, **kwargs: Any
    ) -> Any:
        """Call a function, and a method of a text where its result is not too large."""
        method = getattr(function, "__wrapped__", function)
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            args = _checked(method.__name__, template_sizes.TEXT_METHODS, text, args, kwargs)
        return super().call(context, function, *args, **kwargs)


class _Joining(jinja2.visitor.NodeTransformer):
    """Makes calls of the operator `~`, which Jinja joins by itself."""

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("join_texts", node.nodes)


@contextlib.contextmanager
def limited(seconds_max: float | None = None) -> Iterator[None]:
    """Give the templates that run in the block so much of this thread's processor time.

    Args:
        seconds_max: Default: RUN_SECONDS_MAX.
    """
    token = _run.set(_Run(RUN_SECONDS_MAX if seconds_max is None else seconds_max))
    try:
        yield
    finally:
        _run.reset(token)


def _call(name: str, values: list[jinja2.nodes.Expr]) -> jinja2.nodes.Call:
    function = jinja2.nodes.EnvironmentAttribute(name)
    return jinja2.nodes.Call(function, values, [], None, None)


def _take(size: int) -> None:
    run = _run.get(None)
    if run is not None:
        run.take(size)
    elif size > VALUE_SIZE_MAX:
        # Jinja computes constants when it compiles, and those that fail when they are needed.
        raise TooLarge


def _finalized(value: Any) -> Any:
    """A value that is written; Jinja makes a text of it then."""
    if isinstance(value, list | tuple | Mapping):
        template_sizes.weight(value, VALUE_SIZE_MAX)
    return value


def _checked(
    name: str,
    estimates: Mapping[str, template_sizes.Estimate],
    value: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> tuple[Any, ...]:
    """Take the size of what a method or a filter makes of a value; its arguments.

    Raises:
        TooLarge: It is too large.
    """
    if name in ("format", "format_map"):
        values = [*args, *kwargs.values()]
        _take(template_sizes.formatted(value, values, VALUE_SIZE_MAX))
    elif name == "join" and isinstance(value, str) and args:
        texts = list(args[0])
        _take(template_sizes.joined(texts, value, VALUE_SIZE_MAX))
        return (texts, *args[1:])
    elif name in estimates:
        _take(estimates[name](value, *args, **kwargs))
    return args


def _bounded_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, where what it makes is not too large."""
    # Some get the context or the like before the value.
    first = int(hasattr(function, "jinja_pass_arg"))

    @functools.wraps(function)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        before, value, rest = args[:first], args[first], args[first + 1 :]
        if name in ("join", "sum"):
            value = list(value)
        if name == "join":
            separator = rest[0] if rest else kwargs.get("d", "")
            _take(template_sizes.joined(value, separator, VALUE_SIZE_MAX))
        elif name == "sum":
            _take(sum(map(template_sizes.size, value)))
        elif name in _TEXT_FILTERS:
            _take(template_sizes.weight(value, VALUE_SIZE_MAX))
        else:
            _checked(name, template_sizes.FILTERS, value, rest, kwargs)
        return function(*before, value, *rest, **kwargs)

    return bounded
