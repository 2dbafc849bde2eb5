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

# llama.cpp allocates the scratch memory of a graph at any multiple of 16 bytes. The tiled
# attention kernel reads it in vectors of 64 bytes, so by chance each read crosses a cache
# line, and long prompts take 1.15 times as long. The replacement has the same bits.
set(scratch_file "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src/ggml-cpu/ggml-cpu.cpp")
if(EXISTS "${scratch_file}")
    file(READ "${scratch_file}" scratch_source)
    string(REPLACE
        "cpu_ctx->work_data = new uint8_t[cplan.work_size];"
        "cpu_ctx->work_data = new uint8_t[cplan.work_size + 64];"
        aligned_source "${scratch_source}")
    # Aligned only where the room for it was added.
    if(NOT aligned_source STREQUAL scratch_source)
        string(REPLACE
            "cplan.work_data = (uint8_t *)cpu_ctx->work_data;"
            "cplan.work_data = (uint8_t *)GGML_PAD((uintptr_t)cpu_ctx->work_data, 64);"
            aligned_source "${aligned_source}")
        file(WRITE "${scratch_file}" "${aligned_source}")
    endif()
endif()

# llama.cpp's tiled attention computes a tile of 64 rows even where a thread's part has a few rows
# left, and the parts end anywhere: 64 tokens with 9 heads on 2 threads take 16 tiles, not 9. With
# a tile of one head for a part, there are as few as can be. The replacement has the same bits.
set(tiles_file "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src/ggml-cpu/ops.cpp")
if(EXISTS "${tiles_file}")
    file(READ "${tiles_file}" tiles_source)
    string(REPLACE "\
        int current_chunk = ith;

        while (current_chunk < nchunk) {
            const int64_t ir0 = dr * current_chunk;
            const int64_t ir1 = MIN(ir0 + dr, nr);

            if (use_tiled) {
" "\
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
" whole_tiles_source "${tiles_source}")
    if(NOT whole_tiles_source STREQUAL tiles_source)
        file(WRITE "${tiles_file}" "${whole_tiles_source}")
    endif()
endif()
