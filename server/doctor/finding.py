"""One thing that `doctor` found."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.Enum):
    """The severity of a finding."""

    OK = "ok"
    NOTE = "note"  # it works, and could do better
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        section: Such as "machine".
        name: What was looked at.
        value: What it is.
        verdict: What that means.
        advice: What to do; empty where nothing is to be done.
    """

    section: str
    name: str
    value: str
    verdict: Verdict = Verdict.OK
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """The finding as `json` writes it."""
        return {
            "section": self.section,
            "name": self.name,
            "value": self.value,
            "verdict": self.verdict.value,
            "advice": self.advice,
        }


def problem(section: str, name: str, value: str, advice: str) -> Finding:
    """Make a finding that prevents a server from working."""
    return Finding(section, name, value, Verdict.PROBLEM, advice)


def note(section: str, name: str, value: str, advice: str) -> Finding:
    """Make a finding that a server works with, but less well."""
    return Finding(section, name, value, Verdict.NOTE, advice)
