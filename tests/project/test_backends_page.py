"""The page on backends shows the example that the suites run."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_page_shows_the_file() -> None:
    _, _, rest = (ROOT / "docs" / "backends.md").read_text().partition("```python\n")
    shown, _, _ = rest.partition("```\n")
    assert shown == (ROOT / "docs" / "examples" / "markov.py").read_text()
