"""The documents speak of what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "deploy/README.md",
    "docs/backends.md",
    "docs/console.md",
    "docs/doctor.md",
    "docs/http.md",
    "docs/runners.md",
    "docs/limits.md",
    "docs/performance.md",
    "docs/scheduling.md",
    "docs/tuning.md",
)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)")
# `folder/file.py` in code type, from the root of the checkout.
NAMED = re.compile(
    r"`((?:proto|server|scheduler|backends|clients|tests|deploy|docs|src|\.ci)/[\w./*-]*)`"
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document: str) -> None:
    path = ROOT / document
    links = LINK.findall(path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    named = NAMED.findall((ROOT / document).read_text())
    assert [name for name in named if not any(ROOT.glob(name.rstrip("/")))] == []


def test_the_architecture_names_files() -> None:
    assert len(NAMED.findall((ROOT / "ARCHITECTURE.md").read_text())) >= 10


def test_the_changelog_begins_with_this_version() -> None:
    metadata = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "([^"]+)"', metadata, re.MULTILINE)
    entries = re.findall(r"^## \[?v?(\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version
    assert entries[0] == version[1]
