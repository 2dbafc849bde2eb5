"""The flags that llama.cpp is compiled with, tried on the compiler that is there.

All 64 bytes of AMX's tile configuration are stored before it is loaded. The CPU need not have AMX:
the compiler makes assembly with AMX on, and `ldtilecfg` is replaced by a copy of the bytes that it
would read. And 16-bit floats are added up in 32 bits, on every CPU.
"""

from __future__ import annotations

import ctypes
import platform
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
FILES = ("llama-cpp-only.cmake", "amx-tile-config.h")

# The same steps as llama.cpp's own function, with values that leave no byte to chance.
SOURCE = """
#include <immintrin.h>
#include <cstdint>

struct tile_config {
    uint8_t palette = 0;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {0};
    uint16_t columns[16] = {0};
    uint8_t rows[16] = {0};
};

extern "C" void configure() {
    static thread_local bool done = false;
    if (done) return;
    alignas(64) tile_config config = {};
    config.palette = 1;
    for (int tile = 0; tile < 16; tile++) {
        config.columns[tile] = 0x4140 + tile;
        config.rows[tile] = 0x30 + tile;
    }
    _tile_loadconfig(&config);
    done = true;
}
"""
LOADED = (
    bytes([1]) + bytes(15)
    + b"".join((0x4140 + tile).to_bytes(2, "little") for tile in range(16))
    + bytes(0x30 + tile for tile in range(16))
)  # fmt: skip
READER = """
extern "C" {
__attribute__((visibility("hidden"))) char captured[64];
char *bytes_read() { return captured; }
}
"""
COPY = r"leaq \1, %rsi; leaq captured(%rip), %rdi; movl $64, %ecx; rep movsb"
LISTS_FILE = """
cmake_minimum_required(VERSION 3.21)
project(llama_cpp)
file(WRITE "${CMAKE_BINARY_DIR}/compiler.txt" "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_FLAGS}")
"""


@pytest.fixture(scope="module")
def compiler_flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of the C++ compiler after CMake has read our file, in a folder with a space."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("AMX is x86-64's")
    if not shutil.which("g++") or not shutil.which("cmake"):
        pytest.skip("there is no g++ or no cmake")
    folder = tmp_path_factory.mktemp("a project")
    for name in FILES:
        shutil.copy(DEPLOY / name, folder)
    (folder / "CMakeLists.txt").write_text(LISTS_FILE)
    include = f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={folder / FILES[0]}"
    command = ["cmake", "-S", str(folder), "-B", str(folder / "build"), include]
    subprocess.run([*command, "-DCMAKE_CXX_COMPILER=g++"], check=True, capture_output=True)
    kind, _, flags = (folder / "build" / "compiler.txt").read_text().partition(" ")
    if kind != "GNU":
        pytest.skip(f"g++ is {kind} here, which has no such header")
    return shlex.split(flags)


def loaded_configuration(folder: Path, flags: list[str]) -> bytes:
    """The bytes that `ldtilecfg` would read in `configure`, compiled with these flags."""
    source, assembly, shared = (folder / f"tile.{suffix}" for suffix in ("cpp", "s", "so"))
    source.write_text(SOURCE)
    compile_it = ["g++", "-O3", "-fPIC", "-mamx-tile", *flags, "-S", "-o", str(assembly)]
    done = subprocess.run([*compile_it, str(source)], capture_output=True, text=True, check=False)
    if "mamx-tile" in done.stderr:
        pytest.skip("this g++ does not know AMX")
    assert done.returncode == 0, done.stderr
    text, count = re.subn(r"ldtilecfg\s+(\S+)", COPY, assembly.read_text())
    assert count == 1
    assembly.write_text(text)
    reader = folder / "reader.cpp"
    reader.write_text(READER)
    link = ["g++", "-shared", "-fPIC", "-o", str(shared), str(assembly), str(reader)]
    subprocess.run(link, check=True, capture_output=True)
    library = ctypes.CDLL(str(shared))
    library.configure()
    library.bytes_read.restype = ctypes.POINTER(ctypes.c_char * 64)
    return bytes(library.bytes_read().contents)


def has_the_fault() -> bool:
    """Whether g++ is of a release whose header is known to be wrong."""
    command = ["g++", "-dumpfullversion"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    major, minor = map(int, done.stdout.split(".")[:2])
    return (major == 11 and minor < 5) or (major == 12 and minor < 4)


def test_every_byte_is_stored_before_it_is_loaded(
    tmp_path: Path, compiler_flags: list[str]
) -> None:
    assert loaded_configuration(tmp_path, compiler_flags) == LOADED


def test_a_compiler_that_drops_the_stores_is_found_out(
    tmp_path: Path, compiler_flags: list[str]
) -> None:
    if not has_the_fault():
        pytest.skip("this g++ is not known to have the fault")
    without = [flag for flag in compiler_flags if FILES[1] not in flag and flag != "-include"]
    assert without != compiler_flags
    assert loaded_configuration(tmp_path, without) != LOADED


def float16_macro(folder: Path, flags: list[str]) -> str:
    """What is left of llama.cpp's condition for adding up in 16 bits, on a CPU that can."""
    source = folder / "float16.cpp"
    source.write_text("#include <immintrin.h>\nint condition = __AVX512FP16__;\n")
    command = ["g++", "-march=sapphirerapids", *flags, "-E", "-P", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "sapphirerapids" in done.stderr:
        pytest.skip("this g++ does not know such a CPU")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].removeprefix("int condition = ")


def test_floats_of_16_bits_are_added_up_in_32(tmp_path: Path, compiler_flags: list[str]) -> None:
    assert float16_macro(tmp_path, []) == "1;"
    assert float16_macro(tmp_path, compiler_flags) == "__AVX512FP16__;"
