"""The command of the set-up."""

from __future__ import annotations

import argparse
import fcntl
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bootstrap.console import Console, minutes
from bootstrap.environment import Environment
from bootstrap.errors import SetupError
from bootstrap.jobs import run_lanes
from bootstrap.llama_cpp import LlamaCppWheel
from bootstrap.toolchain import check_toolchain

ROOT = Path(__file__).resolve().parent.parent.parent
EXTRAS = {
    "serve": ("server", "bench", "ctransformers"),
    "test": ("server", "bench", "ctransformers", "dev"),
}
"""The project's extras that each stage installs."""


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Set up what the named stage needs; the exit code."""
    parser = argparse.ArgumentParser(prog="setup.py", description="Set the checkout up.")
    parser.add_argument("stage", choices=[*EXTRAS, "wheel"])
    stage = parser.parse_args(arguments).stage
    signal.signal(signal.SIGTERM, _interrupt)
    console = Console()
    try:
        if stage == "wheel":
            _build_wheel(root, console)
        else:
            _make_environment(root, EXTRAS[stage], console)
    except SetupError as error:
        console.fail(error)
        return 1
    except KeyboardInterrupt:
        console.say("interrupted; run the same command again to continue")
        return 130
    return 0


def _make_environment(root: Path, extras: Sequence[str], console: Console) -> None:
    environment = Environment(root, console)
    if environment.has(extras):
        return
    with _alone(root, console):
        if environment.has(extras):
            return
        started_at = time.monotonic()
        environment.make(extras)
        console.say(f"complete in {minutes(time.monotonic() - started_at)}")


def _build_wheel(root: Path, console: Console) -> None:
    """Only the wheel, with the pip of this Python: what an image is built from."""
    wheel = LlamaCppWheel(root)
    with _alone(root, console):
        if not wheel.path:
            check_toolchain()
            features = wheel.builds()[0]
            log = wheel.folder / "build.log"
            run_lanes([[wheel.build(Path(sys.executable), log, features)]], console)
            wheel.keep(features)
    console.say(f"wheel: {wheel.path}")


@contextmanager
def _alone(root: Path, console: Console) -> Iterator[None]:
    """Hold the lock that keeps two set-ups of one checkout apart."""
    cache = root / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say("another set-up of this checkout is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
