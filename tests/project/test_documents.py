"""The documents speak of what is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from llm_serving_engine.backends.process.runner_loss import LossReason
from llm_serving_engine.scheduler.errors import Cancelled, RequestError

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in (
        "*.md",
        "docs/**/*.md",
        "deploy/*.md",
        "clients/*.md",
        "clients/*/*.md",
    )
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s#]+)")
ANCHOR = re.compile(r"\]\((?!https?:)([^)\s#]*\.md|)#([^)\s]+)\)")
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
def test_anchors_lead_to_headings(document: str) -> None:
    path = ROOT / document
    anchors = [
        (file, anchor)
        for file, anchor in ANCHOR.findall(path.read_text())
        if anchor not in _headings(path.parent / file if file else path)
    ]
    assert anchors == []


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


def test_the_labels_of_errors_and_losses_are_explained() -> None:
    document = (ROOT / "docs" / "observability.md").read_text()
    explained = {
        label: set(re.findall(r"`(\w+)`", text))
        for label, text in re.findall(r"^- `(\w+)`: (.*(?:\n  .*)*)", document, re.MULTILINE)
    }
    importlib.import_module("llm_serving_engine.server.app")  # and with it all kinds of errors
    assert explained["error"] == _labels(RequestError) - {Cancelled.label}
    assert explained["loss"] == {reason.value for reason in LossReason}


def _labels(kind: type[RequestError]) -> set[str]:
    own = {kind.label} if kind.__module__.startswith("llm_serving_engine.") else set()
    return own.union(*map(_labels, kind.__subclasses__()))


def _headings(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
