# Read by CMake after llama-cpp-python's `project(llama_cpp)`, before it adds
# llama.cpp itself: leaves llama.cpp's helper library for its own programs out,
# which takes longer to compile than the rest. On the command line the option
# would be overridden.
set(LLAMA_BUILD_COMMON OFF)
