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

# With all variants of the CPU backend in one build (-DGGML_BACKEND_DL=ON
# -DGGML_CPU_ALL_VARIANTS=ON), they are installed beside libllama.so, where
# `backends/llama_library.py` loads the best one for the machine.
if(GGML_BACKEND_DL)
    set(GGML_BACKEND_DIR "llama_cpp/lib" CACHE STRING "" FORCE)
endif()
