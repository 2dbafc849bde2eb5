// llama-cpp-only.cmake includes this before every C and C++ file of llama.cpp that GCC compiles.
//
// The asm of _tile_loadconfig() in GCC's own header (12.2, for one) names only the first 8 bytes
// of the tile configuration as read. The optimiser then drops the stores to the other 56 bytes,
// and `ldtilecfg` reads what was on the stack: SIGSEGV, SIGILL, or wrong numbers. In releases
// that have a right header, this replacement compiles to the same instruction.
#if defined(__GNUC__) && !defined(__clang__) && defined(__AMX_TILE__)

#include <immintrin.h>

static inline __attribute__((always_inline)) void llm_serving_engine_tile_loadconfig(const void *config) {
    __asm__ volatile("" ::: "memory");
    __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char(*)[64])config));
}

#define _tile_loadconfig(config) llm_serving_engine_tile_loadconfig(config)

#endif
