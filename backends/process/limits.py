"""Sets a worker's system limits: its memory, and its end with its host."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import threading
import time

PARENT_POLL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1
# Address space that is writable and never touched: stacks of threads, and what
# allocators set aside. It is not memory, and the system's limit counts it.
UNTOUCHED_BYTES = 128 * 1024 * 1024


def limit_memory(limit: int) -> None:
    """Let this process allocate no more than `limit` bytes, and what is set aside and not used.

    Weights that are mapped from their file are not counted here; the host
    watches resident memory, which they are part of. macOS takes no such limit:
    there the host's watch is all.
    """
    size = limit + UNTOUCHED_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (size, hard))
    except (OSError, ValueError):
        return


def end_with_parent() -> None:
    """End this process with its parent, even in the middle of a step, even while it is stopped.

    The socket says that the parent has gone too, but only between steps and
    after loading.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        # Reaches a process that is stopped; it is the thread that started this
        # process whose end counts, and that one runs the host's event loop.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(0)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
