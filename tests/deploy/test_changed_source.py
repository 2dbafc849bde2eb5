"""What the set-up changes in llama.cpp's source: its scratch memory, and the parts of attention."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

INCLUDE = Path(__file__).resolve().parent.parent.parent / "deploy" / "llama-cpp-only.cmake"
FOLDER = Path("vendor", "llama.cpp", "ggml", "src", "ggml-cpu")
SCRATCH, TILES = FOLDER / "ggml-cpu.cpp", FOLDER / "ops.cpp"
# The lines of llama.cpp that are replaced, between others that stay.
UNALIGNED = """\
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
OTHER_RELEASE = UNALIGNED.replace("new uint8_t[cplan.work_size]", "allocate(cplan.work_size)")
OTHER_LOOP = """\
        int current_chunk = ith;

        while (current_chunk < nchunk) {
            const int64_t ir0 = dr * current_chunk;
            const int64_t ir1 = MIN(ir0 + dr, nr);

"""
ATTENTION_LOOP = OTHER_LOOP + "            if (use_tiled) {\n"
WHOLE_TILES = """\
        const int64_t head_tiles = (neq1 + Q_TILE_SZ - 1) / Q_TILE_SZ;
        if (use_tiled) {
            nchunk = head_tiles * neq2 * neq3;
        }
        int current_chunk = ith;

        while (current_chunk < nchunk) {
            const int64_t head  = current_chunk / head_tiles;
            const int64_t first = head * neq1 + current_chunk % head_tiles * Q_TILE_SZ;
            const int64_t end   = MIN(first + Q_TILE_SZ, (head + 1) * neq1);
            const int64_t ir0 = use_tiled ? first : dr * current_chunk;
            const int64_t ir1 = use_tiled ? end : MIN(ir0 + dr, nr);

            if (use_tiled) {
"""


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        pytest.param(SCRATCH, UNALIGNED, ALIGNED, id="scratch memory"),
        pytest.param(SCRATCH, ALIGNED, ALIGNED, id="aligned before"),
        pytest.param(SCRATCH, OTHER_RELEASE, OTHER_RELEASE, id="another release"),
        pytest.param(TILES, ATTENTION_LOOP, WHOLE_TILES, id="tiles"),
        pytest.param(TILES, WHOLE_TILES, WHOLE_TILES, id="whole tiles before"),
        pytest.param(TILES, OTHER_LOOP, OTHER_LOOP, id="another operation"),
    ],
)
def test_the_source_is_changed_as_a_whole_or_not_at_all(
    tmp_path: Path, file: Path, before: str, after: str
) -> None:
    if not shutil.which("cmake"):
        pytest.skip("there is no cmake")
    source = tmp_path / file
    source.parent.mkdir(parents=True)
    source.write_text(before)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(llama_cpp NONE)\n"
    )
    include = f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={INCLUDE}"
    command = ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "build"), include]
    subprocess.run(command, check=True, capture_output=True)
    assert source.read_text() == after
