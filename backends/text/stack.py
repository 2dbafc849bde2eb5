"""Runs calls that need more stack than a thread has by default."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_PAGE_BYTES = 65_536
_starting = threading.Lock()


def call_with_stack(stack_bytes: int, function: Callable[[], T]) -> T:
    """Call `function` on a thread of its own, with a stack of at least `stack_bytes`.

    The stack takes address space at once, and memory only as far as it is used;
    both are given back when the call ends.

    Raises:
        MemoryError: There is no room for such a stack.
    """
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, name="roomy-stack", daemon=True)
    # The size is the interpreter's, not the thread's: others that start
    # meanwhile get a larger stack than they need, which does no harm.
    with _starting:
        ordinary = threading.stack_size(-(-stack_bytes // _PAGE_BYTES) * _PAGE_BYTES)
        try:
            thread.start()
        except RuntimeError:
            raise MemoryError(f"no room for a stack of {stack_bytes} bytes") from None
        finally:
            threading.stack_size(ordinary)
    return result.result()
