# Read by CMake after llama-cpp-python's `project(llama_cpp)`, before it adds
# llama.cpp itself.

# Leaves llama.cpp's helper library for its own programs out, which takes longer
# to compile than the rest. On the command line the option would be overridden.
set(LLAMA_BUILD_COMMON OFF)

# GCC drops most of the AMX tile configuration: the header says more.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    string(APPEND CMAKE_C_FLAGS " -include \"${CMAKE_CURRENT_LIST_DIR}/amx-tile-config.h\"")
    string(APPEND CMAKE_CXX_FLAGS " -include \"${CMAKE_CURRENT_LIST_DIR}/amx-tile-config.h\"")
endif()

# On a CPU with AVX512-FP16, llama.cpp would add up 16-bit floats 128 at a time, and those that are
# left one by one: with heads of 64, attention would compute one by one throughout, several times as
# slow, and add up in 16 bits. Without that macro it adds up 16 at a time, in 32 bits.
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    string(APPEND CMAKE_C_FLAGS " -U__AVX512FP16__")
    string(APPEND CMAKE_CXX_FLAGS " -U__AVX512FP16__")
endif()

# With all variants of the CPU backend in one build (-DGGML_BACKEND_DL=ON
# -DGGML_CPU_ALL_VARIANTS=ON), they are installed beside libllama.so, where
# `backends/llama_library.py` loads the best one for the machine.
if(GGML_BACKEND_DL)
    set(GGML_BACKEND_DIR "llama_cpp/lib" CACHE STRING "" FORCE)
endif()

# What llama.cpp's source is changed in has the same bits, and is changed as a whole or not at
# all: where another release has other lines, it is compiled as it is.
#
# `variable` holds a source, in which `before` becomes `after`. Where that is not there, the
# variable becomes empty, and stays so.
function(replace_text variable before after)
    string(REPLACE "${before}" "${after}" changed "${${variable}}")
    if(changed STREQUAL "${${variable}}")
        set(changed "")
    endif()
    set(${variable} "${changed}" PARENT_SCOPE)
endfunction()

set(cpu_sources "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src/ggml-cpu")

# llama.cpp allocates the scratch memory of a graph at any multiple of 16 bytes. The tiled
# attention kernel reads it in vectors of 64 bytes, so by chance each read crosses a cache
# line, and long prompts take 1.15 times as long.
if(EXISTS "${cpu_sources}/ggml-cpu.cpp")
    file(READ "${cpu_sources}/ggml-cpu.cpp" source)
    replace_text(source
        "cpu_ctx->work_data = new uint8_t[cplan.work_size];"
        "cpu_ctx->work_data = new uint8_t[cplan.work_size + 64];")
    replace_text(source
        "cplan.work_data = (uint8_t *)cpu_ctx->work_data;"
        "cplan.work_data = (uint8_t *)GGML_PAD((uintptr_t)cpu_ctx->work_data, 64);")
    if(source)
        file(WRITE "${cpu_sources}/ggml-cpu.cpp" "${source}")
    endif()
endif()

# llama.cpp's tiled attention computes a tile of 64 rows even where a thread's part has a few rows
# left, and the parts end anywhere: 64 tokens with 9 heads on 2 threads take 16 tiles, not 9. With
# a tile of one head for a part, there are as few as can be.
if(EXISTS "${cpu_sources}/ops.cpp")
    file(READ "${cpu_sources}/ops.cpp" source)
    replace_text(source [=[
        int current_chunk = ith;

        while (current_chunk < nchunk) {
            const int64_t ir0 = dr * current_chunk;
            const int64_t ir1 = MIN(ir0 + dr, nr);

            if (use_tiled) {
]=] [=[
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
]=])
    if(source)
        file(WRITE "${cpu_sources}/ops.cpp" "${source}")
    endif()
endif()

# Most of such a tile's time is not arithmetic: each row's maximum is found one element after the
# other, and the mask and the keys are converted one by one. In vectors, a chunk of 64 tokens behind
# 1,344 takes 0.75 of the time. And where a tile has few rows, only those are computed, in fours.
if(EXISTS "${cpu_sources}/ops.cpp")
    file(READ "${cpu_sources}/ops.cpp" source)
    replace_text(source [=[
static void ggml_compute_forward_flash_attn_ext_tiled(
]=] [=[
// The maximum of a tile's row, in lanes that do not wait for each other.
static float ggml_fa_row_max(const float * row) {
    constexpr int LANES = 16;
    static_assert(ggml_fa_tile_config::KV % LANES == 0, "a row is whole lanes");
    float max[LANES];
    for (int lane = 0; lane < LANES; ++lane) {
        max[lane] = row[lane];
    }
    for (int i = LANES; i < ggml_fa_tile_config::KV; i += LANES) {
        for (int lane = 0; lane < LANES; ++lane) {
            max[lane] = MAX(max[lane], row[i + lane]);
        }
    }
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; ++lane) {
            max[lane] = MAX(max[lane], max[lane + half]);
        }
    }
    return max[0];
}

static void ggml_compute_forward_flash_attn_ext_tiled(
]=])
    replace_text(source [=[
        GGML_ASSERT(tile_rows > 0);
]=] [=[
        GGML_ASSERT(tile_rows > 0);
        const int rows = GGML_PAD(tile_rows, 4);
]=])
    replace_text(source [=[
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
]=] [=[
                    float * mask_row = mask32 + tq * KV_TILE_SZ;
                    ggml_cpu_fp16_to_fp32(mp_row + ic, mask_row, kv_tile);
                    // Pad remaining mask entries with -inf
                    for (int tk = kv_tile; tk < KV_TILE_SZ; tk++) {
                        mask_row[tk] = -INFINITY;
                    }
                    ggml_vec_scale_f32(KV_TILE_SZ, mask_row, slope);
                    can_skip = can_skip && ggml_fa_row_max(mask_row) == -INFINITY;
]=])
    replace_text(source [=[
                    for (int64_t dk = 0; dk < DK; dk++) {
                        K_f32[dk * KV_TILE_SZ + tk] = GGML_CPU_FP16_TO_FP32(k_f16[dk]);
                    }
]=] [=[
                    // KQ is not in use yet.
                    for (int64_t first = 0; first < DK; first += Q_TILE_SZ * KV_TILE_SZ) {
                        const int64_t n = MIN(DK - first, Q_TILE_SZ * KV_TILE_SZ);
                        ggml_cpu_fp16_to_fp32(k_f16 + first, KQ, n);
                        for (int64_t dk = 0; dk < n; dk++) {
                            K_f32[(first + dk) * KV_TILE_SZ + tk] = KQ[dk];
                        }
                    }
]=])
    replace_text(source
        "simd_gemm(KQ, (const float *)Q_q, K_f32, Q_TILE_SZ, DK, KV_TILE_SZ);"
        "simd_gemm(KQ, (const float *)Q_q, K_f32, rows, DK, KV_TILE_SZ);")
    replace_text(source
        "ggml_vec_scale_f32(Q_TILE_SZ * KV_TILE_SZ, KQ, scale);"
        "ggml_vec_scale_f32(rows * KV_TILE_SZ, KQ, scale);")
    replace_text(source [=[
            for (int tq = 0; tq < Q_TILE_SZ; tq++) {
                float * kq_row = KQ + tq * KV_TILE_SZ;
]=] [=[
            for (int tq = 0; tq < rows; tq++) {
                float * kq_row = KQ + tq * KV_TILE_SZ;
]=])
    replace_text(source
        "ggml_vec_max_f32(KV_TILE_SZ, &tile_max, kq_row);"
        "tile_max = ggml_fa_row_max(kq_row);")
    replace_text(source
        "simd_gemm(VKQ32, KQ, V32, Q_TILE_SZ, KV_TILE_SZ, DV);"
        "simd_gemm(VKQ32, KQ, V32, rows, KV_TILE_SZ, DV);")
    if(source)
        file(WRITE "${cpu_sources}/ops.cpp" "${source}")
    endif()
endif()
