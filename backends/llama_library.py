"""llama.cpp's C API, alone and silent.

`import llama_cpp` brings in the high-level classes, their web server's types
and a logger that writes to stderr: 24 MB and 150 ms more than the ctypes
declarations, measured. Only those are loaded here, and only on a CPU that the
library is compiled for.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import importlib.util
import logging
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from llm_serving_engine.backends.build_record import library_folder, read_build_record
from llm_serving_engine.backends.cpu import cpu_flags, cpu_name
from llm_serving_engine.backends.models.errors import LibraryMissing, LibraryUnsuitable

_PACKAGE = "llama_cpp"
# ggml's own numbers; those that llama-cpp-python's logger notes are others.
_LOG_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_LOG_CONTINUES = 5
_CAPTURED_LINES_MAX = 64

_logger = logging.getLogger(__name__)
_loading = threading.Lock()


def library() -> Any:
    """The module `llama_cpp.llama_cpp`, its log routed to Python's at level DEBUG.

    Returns:
        The module; its functions are ctypes functions, which release the GIL.

    Raises:
        LibraryMissing: It is not installed or does not load.
        LibraryUnsuitable: It is compiled for another CPU.
    """
    with _loading:
        return _load_once()


@functools.cache
def _load_once() -> Any:
    refuse_other_cpus()
    try:
        module = _import_low_level()
    except ModuleNotFoundError:
        raise LibraryMissing(
            "llama-cpp-python is not installed: pip install 'llm-serving-engine[llama-cpp]'"
        ) from None
    except (RuntimeError, OSError) as error:
        raise LibraryMissing(f"llama.cpp does not load: {error}") from error
    _log.attach(module)
    _aborts.attach(module)
    load_cpu_backend(module)
    return module


def refuse_other_cpus() -> None:
    """Raise LibraryUnsuitable where the library needs what this CPU does not have.

    A library without a record of its build is not refused.
    """
    record = read_build_record()
    flags = cpu_flags()
    if record is None or not flags:
        return
    missing = record.missing(flags)
    if missing:
        raise LibraryUnsuitable(
            f"llama.cpp was compiled for another CPU ({record.cpu}) and needs what this one "
            f"({cpu_name()}) does not have ({', '.join(missing)}): run `make setup` on this "
            "machine, or install llama-cpp-python again here"
        )


def ggml_of(module: Any) -> ctypes.CDLL:
    """Where ggml's own functions are found: libllama, which is linked to them.

    Opening libggml by its path could load it a second time: a wheel holds copies
    where a library's other names are links.
    """
    return module._lib  # type: ignore[no-any-return]


def load_cpu_backend(module: Any) -> None:
    """Load the variant of the CPU backend that suits this CPU, in a build that has several.

    In other builds the backend is linked into the library.

    Raises:
        LibraryMissing: None of the variants loads.
    """
    folder = library_folder()
    if folder is None or not list(folder.glob("libggml-cpu-*")):
        return
    ggml = ggml_of(module)
    ggml.ggml_backend_load_all_from_path.argtypes = (ctypes.c_char_p,)
    ggml.ggml_backend_load_all_from_path.restype = None
    ggml.ggml_backend_load_all_from_path(bytes(folder))
    ggml.ggml_backend_reg_by_name.argtypes = (ctypes.c_char_p,)
    ggml.ggml_backend_reg_by_name.restype = ctypes.c_void_p
    if not ggml.ggml_backend_reg_by_name(b"CPU"):
        raise LibraryMissing(f"none of llama.cpp's CPU variants in {folder} loads on this machine")


def _import_low_level() -> Any:
    """Import the submodule without running its package's `__init__`."""
    if _PACKAGE in sys.modules:
        return importlib.import_module(f"{_PACKAGE}.llama_cpp")
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(_PACKAGE)
    stand_in = types.ModuleType(_PACKAGE)
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules[_PACKAGE] = stand_in
    try:
        return importlib.import_module(f"{_PACKAGE}.llama_cpp")
    finally:
        # The whole package can still be imported.
        del sys.modules[_PACKAGE]


@contextlib.contextmanager
def log_lines(listener: Callable[[int, str], None]) -> Iterator[None]:
    """Hand llama.cpp's log to `listener` while the context is open.

    Args:
        listener: Called with a level of `logging` and a line without its break,
            on whichever thread calls llama.cpp. It must not raise.
    """
    _log.listeners[id(listener)] = listener
    try:
        yield
    finally:
        del _log.listeners[id(listener)]


@contextlib.contextmanager
def captured_errors() -> Iterator[deque[str]]:
    """The lines that llama.cpp logs as warnings and errors while the context is open.

    Lines of other threads that call llama.cpp at the same time are among them.

    Yields:
        The lines, oldest first; the newest 64 are kept.
    """
    lines: deque[str] = deque(maxlen=_CAPTURED_LINES_MAX)

    def keep(level: int, line: str) -> None:
        if level >= logging.WARNING:
            lines.append(line)

    with log_lines(keep):
        yield lines


def on_abort(listener: Callable[[str], None]) -> None:
    """Call `listener` with the abort message before llama.cpp ends the process.

    llama.cpp calls `abort` when an assertion fails. With a listener it prints
    no message itself.

    Args:
        listener: Called with one line, on the thread that called llama.cpp. It
            must not raise. When it returns, the process ends.
    """
    _aborts.listener = listener


class _Aborts:
    """Receives ggml's abort messages."""

    def __init__(self) -> None:
        self.listener: Callable[[str], None] | None = None
        self._callback: Any = None

    def attach(self, module: Any) -> None:
        """Receive the messages of `module` until the process ends, if there is a listener."""
        if self.listener is None:
            return
        self._callback = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(self._write)
        ggml_of(module).ggml_set_abort_callback(self._callback)

    def _write(self, text: bytes) -> None:
        if self.listener is not None:
            self.listener(" ".join(text.decode("utf-8", "replace").split()))


class _Log:
    """Takes llama.cpp's log, which comes in pieces of lines and from any thread."""

    def __init__(self) -> None:
        self.listeners: dict[int, Callable[[int, str], None]] = {}
        self._callback: Any = None
        self._level = logging.DEBUG
        self._line = ""

    def attach(self, module: Any) -> None:
        """Become the log of `module`, until the interpreter ends."""
        self._callback = module.llama_log_callback(self._write)
        module.llama_log_set(self._callback, None)
        # A library that logs while the process ends must not call into a dead interpreter.
        atexit.register(module.llama_log_set, module.llama_log_callback(0), None)

    def _write(self, level: int, text: bytes, _user_data: object) -> None:
        if level != _LOG_CONTINUES:
            self._level = _LOG_LEVELS.get(level, logging.DEBUG)
        *lines, self._line = (self._line + text.decode("utf-8", "replace")).split("\n")
        for line in lines:
            _logger.debug("%s", line)
            for listener in tuple(self.listeners.values()):
                listener(self._level, line)


_log = _Log()
_aborts = _Aborts()
