"""Derives a model's reasoning markers from its chat template.

The template is rendered with and without reasoning, and the results are compared:
what stands between the assistant's header and the reasoning opens it, and what
stands between the reasoning and the answer closes it. Templates that only remove
reasoning from earlier turns are given each pair of markers that they name, and
the pair whose content disappears is the one. Templates that open the reasoning in
the generation prompt itself show it there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llm_serving_engine.backends.text.conversation import Conversation
from llm_serving_engine.backends.text.template_program import TemplateError

FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Names by which templates read the reasoning of an earlier message."""

SWITCHES: Mapping[str, Any] = {"enable_thinking": True, "thinking": True}
"""Arguments that make templates show reasoning which is off by default."""

_QUESTION, _REASONING, _ANSWER = "271828182845", "314159265358", "161803398874"

# A marker by itself at the end of a text, and the pairs that a template's source names.
_OPENING = re.compile(r"(<[^<>\s]+>|\[[^\[\]\s]+\])\s*\Z")
_CLOSINGS = (
    (re.compile(r"</([\w:.-]+)>"), "<{}>", "</{}>"),
    (re.compile(r"\[/([\w:.-]+)\]"), "[{}]", "[/{}]"),
    (re.compile(r"<\|END_(\w+)\|>"), "<|START_{}|>", "<|END_{}|>"),
    (re.compile(r"\u25c1/(\w+)\u25b7"), "\u25c1{}\u25b7", "\u25c1/{}\u25b7"),
)
_PAIRS_MAX = 16


@dataclass(frozen=True, slots=True)
class ReasoningFormat:
    """The markers around a model's reasoning.

    Attributes:
        begin: Opens the reasoning.
        end: Closes it; the answer follows.
        plain: Opens an answer without reasoning; mostly empty.
        field: The name by which the template reads the reasoning of an earlier
            message; empty where it reads none.
    """

    begin: str
    end: str
    plain: str = ""
    field: str = ""

    def is_open_after(self, prompt: str) -> bool:
        """Whether the output after this prompt begins inside of the reasoning."""
        return prompt.rstrip().endswith(self.begin)

    def is_open_in(self, message: str) -> bool:
        """Whether the output that goes on with this message begins inside of the reasoning."""
        return message.rfind(self.begin) > message.rfind(self.end)


def find_reasoning(run: Callable[[Conversation], str], source: str) -> ReasoningFormat | None:
    """Find the markers of a template; None if it shows no reasoning.

    Args:
        run: Runs the template. It may raise TemplateError.
        source: The template's source.
    """
    probe = _Probe(run)
    return probe.shown() or probe.removed(source) or probe.opened()


class _Probe:
    """Renders a template in several ways."""

    def __init__(self, run: Callable[[Conversation], str]) -> None:
        self._run = run
        # What comes before the model's own words.
        self._header = self._render()

    def shown(self) -> ReasoningFormat | None:
        """The template writes the reasoning of the last message."""
        plain = self._render(_answer(), continues=True).partition(_ANSWER)[0]
        for field in FIELDS:
            output = self._render({**_answer(), field: _REASONING}, continues=True)
            before, found, rest = output.partition(_REASONING)
            between, answered, _ = rest.partition(_ANSWER)
            begin, end = self._opening(before), between.strip()
            if found and answered and begin and end:
                start = self._after_header(plain).strip()
                return ReasoningFormat(begin, end, "" if begin in start else start, field)
        return None

    def removed(self, source: str) -> ReasoningFormat | None:
        """The template removes reasoning from earlier messages."""
        for begin, end in _pairs(source):
            turn = _answer(f"{begin}{_REASONING}{end}{_ANSWER}")
            output = self._render(turn, _user())
            if _ANSWER in output and _REASONING not in output:
                return ReasoningFormat(begin, end)
        return None

    def opened(self) -> ReasoningFormat | None:
        """The generation prompt has a marker that an earlier turn has not."""
        earlier = self._render(_answer(), _user()).partition(_ANSWER)[0]
        if not earlier or not self._header.startswith(earlier):
            return None
        begin = self._header[len(earlier) :].strip()
        if not _OPENING.fullmatch(begin):
            return None
        return ReasoningFormat(begin, f"{begin[0]}/{begin[1:]}")

    def _opening(self, before: str) -> str:
        """The marker at the end of what stands before the reasoning."""
        if marker := self._after_header(before).strip():
            return marker
        found = _OPENING.search(before)
        return found[1] if found else ""

    def _after_header(self, text: str) -> str:
        return text[len(self._header) :] if text.startswith(self._header) else ""

    def _render(self, *turns: Mapping[str, Any], continues: bool = False) -> str:
        try:
            return self._run(Conversation([_user(), *turns], SWITCHES, continues))
        except TemplateError:
            return ""


def _user() -> Mapping[str, Any]:
    return {"role": "user", "content": _QUESTION}


def _answer(content: str = _ANSWER) -> Mapping[str, Any]:
    return {"role": "assistant", "content": content}


def _pairs(source: str) -> Iterator[tuple[str, str]]:
    """The pairs of markers whose closing one the template's source names."""
    found: dict[tuple[str, str], None] = {}
    for pattern, begin, end in _CLOSINGS:
        for name in pattern.findall(source):
            found[begin.format(name), end.format(name)] = None
    yield from list(found)[:_PAIRS_MAX]
