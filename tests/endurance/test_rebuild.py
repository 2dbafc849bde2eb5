"""A set-up whose first build fails its self-check: the next one is compiled, and it serves."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from llm_serving_engine.backends.cpu import cpu_flags
from llm_serving_engine.backends.self_check.faults import VARIABLE

ROOT = Path(__file__).resolve().parent.parent.parent
READ = (
    "from llm_serving_engine.backends.build_record import read_build_record\n"
    "from llm_serving_engine.backends.llama_library import library\n"
    "record = read_build_record()\n"
    "assert record.ok, record\n"
    "library()\n"
    "print(record.features)\n"
)


def test_a_build_that_fails_is_replaced_by_one_with_fewer_features(tmp_path: Path) -> None:
    if platform.machine() not in ("x86_64", "AMD64") or "avx512f" not in cpu_flags():
        expected = "baseline"
    elif "amx_tile" in cpu_flags():
        expected = "no-amx"
    else:
        expected = "no-avx512"
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    done = subprocess.run(
        [sys.executable, "deploy/setup.py", "serve"],
        cwd=checkout,
        env={**os.environ, VARIABLE: "full=crash"},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    print(done.stderr)
    assert done.returncode == 0
    assert "Q4_0: crash: its process was ended by SIGSEGV" in done.stderr
    remembered = json.loads(next(checkout.glob(".cache/llama-cpp-python/*/build.json")).read_text())
    assert remembered["features"] == expected
    assert [attempt["features"] for attempt in remembered["attempts"]] == ["full"]
    python = checkout / ".venv" / "bin" / "python"
    used = subprocess.run([str(python), "-c", READ], capture_output=True, text=True, check=True)
    assert used.stdout.strip() == expected
