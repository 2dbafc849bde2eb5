"""How the server sets glibc's allocator up."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys

import pytest

# What two threads take at the same time, and how a block of megabytes is taken after one was freed.
PROGRAM = """
import ctypes, sys, threading
from llm_serving_engine.server.allocator import bound_free_memory

if sys.argv[1] == "bounded":
    bound_free_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
barrier = threading.Barrier(3)

def take():
    barrier.wait()
    libc.malloc(2000)
    barrier.wait()

threads = [threading.Thread(target=take) for _ in range(2)]
[thread.start() for thread in threads]
barrier.wait()
barrier.wait()
libc.free(libc.malloc(16 * 2**20))
libc.malloc(8 * 2**20)
print(flush=True)
# Onto its standard output, as XML.
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""
BLOCK_BYTES = 8 * 2**20
IN_GLIBC = getattr(ctypes.CDLL(None), "malloc_info", None) is not None


def described(how: str, **environment: str) -> str:
    """The state of the allocator of a process, in XML."""
    variables = {name: text for name, text in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how],
        capture_output=True,
        text=True,
        check=True,
        env=variables | environment,
    )
    return done.stdout


def mapped_bytes(state: str) -> int:
    """What all blocks have that are mapped by themselves."""
    (size,) = re.findall(r'<total type="mmap" count="\d+" size="(\d+)"/>', state)
    return int(size)


@pytest.mark.skipif(not IN_GLIBC, reason="the C library is not glibc")
def test_free_memory_is_bounded() -> None:
    before, after = described("as it is"), described("bounded")
    assert (before.count("<heap "), after.count("<heap ")) == (3, 1)
    # A block that is mapped by itself is given back when it is freed.
    assert mapped_bytes(before) < BLOCK_BYTES <= mapped_bytes(after)


@pytest.mark.skipif(not IN_GLIBC, reason="the C library is not glibc")
def test_the_environment_goes_first() -> None:
    own = described("bounded", MALLOC_ARENA_MAX="2", MALLOC_MMAP_THRESHOLD_="33554432")
    assert own.count("<heap ") == 2
    assert mapped_bytes(own) < BLOCK_BYTES
