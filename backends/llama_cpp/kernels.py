"""The kinds of matrix kernels for a processor, and which one a model is loaded for.

Where weights are put decides which kernels multiply with them. ggml has a list
of buffer types that reorder weights: one for AMX, which stands first, and one
that repacks them for vectors; what no type of the list takes stays as it is in
the file. llama.cpp asks the list in its order, for each tensor. A kind is a part
of that list.

For the time of a load the list is cut to that part. llama.cpp's overrides by
tensor name cannot do the same: with tied embeddings one name stands for a table
to look up in, which must stay as it is, and for a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from llm_serving_engine.backends.backend import AMX, PLAIN, REPACK, LoadError
from llm_serving_engine.backends.llama_cpp import ggml
from llm_serving_engine.backends.llama_cpp.ggml import Address

KINDS = (AMX, REPACK, PLAIN)
"""In llama.cpp's own order."""

_AMX_NAME = "AMX"


class Kernels:
    """The kinds that this build has on this processor."""

    def __init__(self) -> None:
        """Ask the library. Raises LibraryMissing."""
        self._device = ggml.cpu_device()
        self._list = ggml.extra_buffer_types(self._device) if self._device else [None]
        self._all = tuple(ggml.listed(self._list))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds there are, in llama.cpp's own order; "plain" is always there."""
        reordering = [AMX if self._is_amx(one) else REPACK for one in self._all]
        return tuple(kind for kind in KINDS if kind == PLAIN or kind in reordering)

    def buffer_types(self, kind: str) -> tuple[Address, ...]:
        """The buffer types that a kind asks, in their order; the last one takes any weights."""
        if self._device is None:
            return ()
        return (*self._extra(kind), ggml.plain_buffer_type(self._device))

    def check(self, kind: str) -> None:
        """Raise LoadError where there is no such kind."""
        if kind not in self.kinds:
            raise LoadError(
                f"kernels is {kind!r}, which this processor and this build of llama.cpp do not "
                f"have; they have: {', '.join(self.kinds)}, and auto chooses among them"
            )

    def used(self, kind: str, type_code: int, columns: int, rows: int) -> Address | None:
        """Where a kind puts weights of a type and shape; None where the library cannot tell."""
        for buffer_type in self.buffer_types(kind):
            assert self._device is not None
            if ggml.supports(self._device, buffer_type, type_code, columns, rows):
                return buffer_type
        return None

    @contextmanager
    def loading(self, kind: str) -> Iterator[bool]:
        """Cut ggml's list to what a kind asks, while a model is loaded.

        Yields:
            What llama.cpp's `use_extra_bufts` is to be.
        """
        kept = self._extra(kind)
        if len(kept) == len(self._all) or not kept:
            yield bool(kept)
            return
        try:
            self._write(kept)
            yield True
        finally:
            self._write(self._all)

    def _extra(self, kind: str) -> tuple[Address, ...]:
        """Those of ggml's list that a kind asks; all of them where none is chosen."""
        if kind == PLAIN:
            return ()
        # What AMX has no kernels for is repacked.
        return tuple(one for one in self._all if kind != REPACK or not self._is_amx(one))

    def _write(self, entries: tuple[Address, ...]) -> None:
        for index, entry in enumerate((*entries, None)):
            self._list[index] = entry

    def _is_amx(self, buffer_type: Address) -> bool:
        return ggml.buffer_type_name(buffer_type) == _AMX_NAME


def fastest(seconds: Mapping[str, float], margin: float) -> str:
    """The kind to load for.

    Args:
        seconds: What the same work takes with each kind.
        margin: Kinds that are slower than the fastest by no more than this, such
            as 0.03, count as equally fast; of those, weights that stay as they
            are in the file win, as they take no memory for copies.
    """
    limit = min(seconds.values()) * (1 + margin)
    return [kind for kind in KINDS if kind in seconds and seconds[kind] <= limit][-1]
