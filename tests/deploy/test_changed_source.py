"""What the set-up changes in llama.cpp's source: its scratch memory, and its attention."""

from __future__ import annotations

import re
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


# What llama.cpp's tile of attention has one by one, or for rows that are not there.
TILE = """\
static void ggml_compute_forward_flash_attn_ext_tiled(
        int ir0, int ir1) {
        GGML_ASSERT(tile_rows > 0);
                    for (int tk = 0; tk < kv_tile; tk++) {
                        mask32[tq * KV_TILE_SZ + tk] = slope * GGML_CPU_FP16_TO_FP32(mp_row[ic + tk]);
                        if (mask32[tq * KV_TILE_SZ + tk] != -INFINITY) {
                            can_skip = false;
                        }
                    }
                    // Pad remaining mask entries with -inf
                    for (int tk = kv_tile; tk < KV_TILE_SZ; tk++) {
                        mask32[tq * KV_TILE_SZ + tk] = -INFINITY;
                    }
                    for (int64_t dk = 0; dk < DK; dk++) {
                        K_f32[dk * KV_TILE_SZ + tk] = GGML_CPU_FP16_TO_FP32(k_f16[dk]);
                    }
            simd_gemm(KQ, (const float *)Q_q, K_f32, Q_TILE_SZ, DK, KV_TILE_SZ);
            ggml_vec_scale_f32(Q_TILE_SZ * KV_TILE_SZ, KQ, scale);
            for (int tq = 0; tq < Q_TILE_SZ; tq++) {
                float * kq_row = KQ + tq * KV_TILE_SZ;
                ggml_vec_max_f32(KV_TILE_SZ, &tile_max, kq_row);
            simd_gemm(VKQ32, KQ, V32, Q_TILE_SZ, KV_TILE_SZ, DV);
}
"""  # noqa: E501


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
    assert configured(tmp_path, file, before) == after


def test_a_tile_computes_in_vectors_and_the_rows_that_it_has(tmp_path: Path) -> None:
    after = configured(tmp_path, TILES, TILE)
    assert after.count("ggml_fa_row_max(") == 3  # the function, the mask, the scores
    assert "GGML_CPU_FP16_TO_FP32" not in after
    assert re.findall(r"simd_gemm\((.*)\);", after) == [
        "KQ, (const float *)Q_q, K_f32, rows, DK, KV_TILE_SZ",
        "VKQ32, KQ, V32, rows, KV_TILE_SZ, DV",
    ]
    assert configured(tmp_path, TILES, after) == after


@pytest.mark.parametrize("changed", ["tile_rows > 0", "slope *", "k_f16[dk]", "&tile_max", "V32,"])
def test_a_tile_of_another_release_stays(tmp_path: Path, changed: str) -> None:
    other = TILE.replace(changed, changed + " /* other */")
    assert other != TILE
    assert configured(tmp_path, TILES, other) == other


def configured(folder: Path, file: Path, before: str) -> str:
    """What a source file is after CMake has read the change."""
    if not shutil.which("cmake"):
        pytest.skip("there is no cmake")
    source = folder / file
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(before)
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.21)\nproject(llama_cpp NONE)\n"
    )
    include = f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={INCLUDE}"
    command = ["cmake", "-S", str(folder), "-B", str(folder / "build"), include]
    subprocess.run(command, check=True, capture_output=True)
    return source.read_text()
