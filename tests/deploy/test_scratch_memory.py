"""The scratch memory of llama.cpp's graphs begins at a multiple of 64 bytes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

INCLUDE = Path(__file__).resolve().parent.parent.parent / "deploy" / "llama-cpp-only.cmake"
SOURCE = Path("vendor", "llama.cpp", "ggml", "src", "ggml-cpu", "ggml-cpu.cpp")
# The lines of llama.cpp that are replaced, between others that stay.
LINES = """\
    cpu_plan->cplan.work_data = new uint8_t[cpu_plan->cplan.work_size];
    cpu_ctx->work_data = new uint8_t[cplan.work_size];
    if (names[0] == "a;b") { cpu_ctx->work_size = cplan.work_size; }
    cplan.work_data = (uint8_t *)cpu_ctx->work_data;
"""
ALIGNED = """\
    cpu_plan->cplan.work_data = new uint8_t[cpu_plan->cplan.work_size];
    cpu_ctx->work_data = new uint8_t[cplan.work_size + 64];
    if (names[0] == "a;b") { cpu_ctx->work_size = cplan.work_size; }
    cplan.work_data = (uint8_t *)GGML_PAD((uintptr_t)cpu_ctx->work_data, 64);
"""
OTHER = LINES.replace("new uint8_t[cplan.work_size]", "allocate(cplan.work_size)")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(LINES, ALIGNED, id="as it is"),
        pytest.param(ALIGNED, ALIGNED, id="replaced before"),
        pytest.param(OTHER, OTHER, id="another release"),
    ],
)
def test_the_source_is_changed_as_a_whole_or_not_at_all(
    tmp_path: Path, before: str, after: str
) -> None:
    if not shutil.which("cmake"):
        pytest.skip("there is no cmake")
    source = tmp_path / SOURCE
    source.parent.mkdir(parents=True)
    source.write_text(before)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(llama_cpp NONE)\n"
    )
    include = f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={INCLUDE}"
    command = ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build"), include]
    subprocess.run(command, check=True, capture_output=True)
    assert source.read_text() == after
