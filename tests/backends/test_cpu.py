"""The CPU as the system describes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_serving_engine.backends import cpu

X86 = """\
processor\t: 0
model name\t: A fast CPU @ 2.00GHz
flags\t\t: fpu sse4_2 avx2 constant_tsc amx_tile

processor\t: 1
model name\t: A fast CPU @ 2.00GHz
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\n"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Linux, and nothing remembered."""
    monkeypatch.setattr("platform.system", lambda: "Linux")
    cpu.cpu_flags.cache_clear()
    yield
    cpu.cpu_flags.cache_clear()


def describe(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    monkeypatch.setattr(cpu, "_CPUINFO", path)


def test_flags_of_x86(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(X86, tmp_path, monkeypatch)
    assert cpu.cpu_flags() == {"fpu", "sse4_2", "avx2", "constant_tsc", "amx_tile"}
    assert cpu.code_flags() == {"sse4_2", "avx2", "amx_tile"}
    assert cpu.cpu_name() == "A fast CPU @ 2.00GHz"


def test_flags_of_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe(ARM, tmp_path, monkeypatch)
    assert cpu.code_flags() == {"asimd", "asimddp", "i8mm"}


def test_a_system_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "none")
    assert cpu.cpu_flags() == frozenset()
    assert cpu.cpu_name()
