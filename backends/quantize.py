"""Writes a model's weights in another type.

llama.cpp does it in a process of its own: it aborts on what it cannot handle,
and does not stop for Ctrl-C.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from llm_serving_engine.backends.llama_library import (
    captured_errors,
    library,
    log_lines,
    on_abort,
)
from llm_serving_engine.backends.models.abort_messages import explain
from llm_serving_engine.backends.models.errors import ModelError, QuantizeError
from llm_serving_engine.backends.models.info import FILE_TYPES, ModelInfo

# The types that need no importance matrix.
QUANTIZED_TYPES = (
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L",
    "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "F16", "BF16", "F32",
)  # fmt: skip
_FILE_TYPE_NUMBERS = {name: number for number, name in FILE_TYPES.items()}
_TENSOR_LINE = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")


def quantize(
    source: Path,
    target: Path,
    type_name: str,
    *,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write `source` with its weights stored as `type_name`.

    The target appears when it is complete. Weights that are quantized already
    are quantized again, which loses more than doing so from F16.

    Args:
        source: A GGUF file.
        target: The file to write; an existing one is replaced.
        type_name: As `quantized_type` takes it.
        on_progress: Called with the tensors done and their number.

    Raises:
        ModelNotFound: There is no source.
        ModelFileError: The source is not a whole GGUF file.
        QuantizeError: The type is unknown, or llama.cpp cannot do it.
    """
    number = _FILE_TYPE_NUMBERS[quantized_type(type_name)]
    ModelInfo.read(source)
    if target.exists() and target.samefile(source):
        raise QuantizeError(f"{target} cannot be written over itself")
    if not target.parent.is_dir():
        raise QuantizeError(f"there is no folder {target.parent}")
    partial = target.with_name(target.name + ".partial")
    try:
        _run_worker(source, partial, number, on_progress)
        partial.replace(target)
    except OSError as error:
        raise QuantizeError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def quantized_type(type_name: str) -> str:
    """The one of `QUANTIZED_TYPES` that is meant, in whatever case. Raises QuantizeError."""
    if type_name.upper() not in QUANTIZED_TYPES:
        raise QuantizeError(f"no type {type_name!r}; there are: {', '.join(QUANTIZED_TYPES)}")
    return type_name.upper()


def _run_worker(
    source: Path, target: Path, number: int, on_progress: Callable[[int, int], None]
) -> None:
    command = [sys.executable, "-m", __name__, str(source), str(target), str(number)]
    last: deque[str] = deque(maxlen=1)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # The working directory is no place to import from.
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                progress = _TENSOR_LINE.match(line)
                if progress:
                    on_progress(int(progress[1]), int(progress[2]))
                else:
                    last.append(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        reason = last[0] if last else f"llama.cpp ended with {process.returncode}"
        raise QuantizeError(f"{source} cannot be quantized: {reason}")


def _work(source: str, target: str, number: int) -> int:
    """The process of its own: lines of progress on stdout, then a reason if it failed."""
    on_abort(lambda words: print(explain(words), flush=True))  # noqa: T201 - as below
    try:
        lib = library()
    except ModelError as error:
        print(error, flush=True)  # noqa: T201 - read by the parent
        return 1
    parameters = lib.llama_model_quantize_default_params()
    parameters.ftype = number
    parameters.allow_requantize = True
    with captured_errors() as errors, log_lines(_print_progress):
        failed = lib.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)
        )
    if failed:
        reason = errors[-1] if errors else "no reason given"
        print(reason.rpartition("failed to quantize: ")[2], flush=True)  # noqa: T201
    return int(failed != 0)


def _print_progress(_level: int, line: str) -> None:
    progress = _TENSOR_LINE.match(line)
    if progress:
        print(progress[0], flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(_work(sys.argv[1], sys.argv[2], int(sys.argv[3])))
