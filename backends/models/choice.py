"""Which file to take of a repository that holds several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from llm_serving_engine.backends.models.errors import HubError
from llm_serving_engine.backends.models.split import PartName

# What to take of several: first those with fast kernels on CPUs, then by size.
PREFERRED_TYPES = ("Q4_0", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q4_K_S", "Q4_1", "F16", "BF16")
# Words in the names of files that are no model of their own.
_EXTRAS = frozenset(
    ("mmproj", "imatrix", "lora", "adapter", "draft", "drafter", "eagle", "eagle3", "dflash")
)
_TYPE = re.compile(r"(?:^|[-._/])((?:I?Q|TQ|MXFP|NVFP)[0-9][A-Z0-9_]*|BF16|F16|F32)$")
_LISTED_MAX = 12
# What a model takes beside its weights, as a share of them: cache and buffers.
_BESIDE_WEIGHTS = 0.2


class Choice(NamedTuple):
    """A model's file, and why it was taken.

    Attributes:
        file: Its name in the repository; of a split model, the first part's.
        reason: One sentence; empty where there was nothing to choose.
    """

    file: str
    reason: str = ""


def choose_file(
    repository: str,
    sizes: Mapping[str, int | None],
    *,
    quantization: str | None = None,
    memory: int | None = None,
) -> Choice:
    """The GGUF file to take of a repository's files.

    The only one; else the first by `PREFERRED_TYPES` of those that fit the memory.

    Args:
        repository: Its name, for messages.
        sizes: Bytes of each of its files, None where that is not known.
        quantization: The type that is wanted, such as "Q4_K_M", in any case;
            None for the one that suits best.
        memory: Bytes that the model may take; None for any.

    Raises:
        HubError: There is none, none fits, or no way to choose.
    """
    models = _models(sizes)
    if not models:
        raise HubError(f"{repository} holds no GGUF file of a model")
    if quantization is not None:
        wanted = [name for name in models if _is_of_type(name, quantization)]
        if not wanted:
            types = sorted({kind for name in models if (kind := type_of(name))})
            there = ", ".join(types) or ", ".join(sorted(models)[:_LISTED_MAX])
            raise HubError(f"{repository} has no {quantization}; there are: {there}")
        models = {name: models[name] for name in wanted}
    if len(models) == 1:
        return Choice(next(iter(models)))
    fitting = {name: size for name, size in models.items() if _fits(size, memory)}
    if not fitting:
        smallest = min(size for size in models.values() if size is not None)
        raise HubError(
            f"no model of {repository} fits into {_megabytes(memory)} of memory: "
            f"the smallest has {_megabytes(smallest)}"
        )
    for kind in PREFERRED_TYPES:
        for name in sorted(fitting, key=len):
            if type_of(name) == kind:
                return Choice(name, _reason(name, fitting[name], len(models), memory))
    listed = ", ".join(list(fitting)[:_LISTED_MAX])
    more = ", ..." if len(fitting) > _LISTED_MAX else ""
    raise HubError(f"{repository} holds several files; name one of: {listed}{more}")


def type_of(name: str) -> str:
    """Return the weight type in a file's name; empty if the name has none."""
    found = _TYPE.search(_stem(name).upper())
    return "" if found is None else found[1]


def parts_of(file: str) -> tuple[str, ...]:
    """Return the names of all parts of a model, given any; the name itself if it is no part."""
    part = PartName.parse(file)
    return (file,) if part is None else part.names


def _models(sizes: Mapping[str, int | None]) -> dict[str, int | None]:
    """Whole models and their sizes; a split one under its first part's name."""
    models: dict[str, int | None] = {}
    for name in sizes:
        part = PartName.parse(name)
        if not name.endswith(".gguf") or _is_extra(name) or (part and part.number != 1):
            continue
        parts = parts_of(name)
        if all(each in sizes for each in parts):
            known = [size for each in parts if (size := sizes[each]) is not None]
            models[name] = sum(known) if len(known) == len(parts) else None
    return models


def _is_extra(name: str) -> bool:
    words = re.split(r"[-_. ]", name.rpartition("/")[2].lower())
    return not _EXTRAS.isdisjoint(words)


def _is_of_type(name: str, wanted: str) -> bool:
    stem, wanted = _stem(name).upper(), wanted.upper()
    ends = re.search(rf"(?:^|[-._/]){re.escape(wanted)}$", stem) is not None
    return ends or wanted in stem.split("/")[:-1]


def _stem(name: str) -> str:
    part = PartName.parse(name)
    return name.removesuffix(".gguf") if part is None else part.stem


def _fits(size: int | None, memory: int | None) -> bool:
    return size is None or memory is None or size * (1 + _BESIDE_WEIGHTS) <= memory


def _reason(name: str, size: int | None, count: int, memory: int | None) -> str:
    has = "" if size is None else f", {_megabytes(size)}"
    fits = "" if memory is None or size is None else f" that fits into {_megabytes(memory)}"
    return f"{name} ({type_of(name)}{has}) is the first of {count} models{fits}, in the order " + (
        f"{', '.join(PREFERRED_TYPES[:4])}, ...; name another with :QUANT or /FILE"
    )


def _megabytes(size: int | None) -> str:
    return "any amount" if size is None else f"{size / 1e6:,.0f} MB"
