"""Long commands: side by side, with their output in files."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bootstrap.console import Console, minutes
from bootstrap.errors import SetupError

POLL_SECONDS = 0.2
TAIL_LINES = 15
_PROGRESS = re.compile(rb"^ *\[ *(\d+)(?:/(\d+)|%)\]", re.MULTILINE)  # Ninja's, or Make's


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        name: What it does, for people.
        command: The program and its arguments.
        log: Where its output goes.
        environment: Variables set beside those that the set-up was given.
    """

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


class RunningJob:
    """A job that has been started."""

    def __init__(self, job: Job) -> None:
        self.name = job.name
        self._job = job
        self._started_at = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("wb") as log:
            self._process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **job.environment},
            )

    def status(self) -> str:
        """Its name, how far it is where its output tells, and for how long it has run."""
        elapsed = self.elapsed()
        with self._job.log.open("rb") as log:
            log.seek(max(0, self._job.log.stat().st_size - 8192))
            steps = _PROGRESS.findall(log.read())
        if not steps:
            return f"{self.name} {elapsed}"
        done, of = steps[-1]
        percent = int(done) * 100 // int(of) if of else int(done)
        return f"{self.name} {percent} % {elapsed}"

    def elapsed(self) -> str:
        """For how long it has run."""
        return minutes(time.monotonic() - self._started_at)

    def done(self) -> bool:
        """Whether it has ended. Raises SetupError where it failed."""
        code = self._process.poll()
        if code:
            raise SetupError(self._failure())
        return code == 0

    def stop(self) -> None:
        """End it, if it has not."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait()

    def _failure(self) -> str:
        log = self._job.log
        tail = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join([*tail, f"error: {self.name}: failed; its output is in {log}"])


def run_lanes(lanes: Sequence[Sequence[Job]], console: Console) -> None:
    """Run each lane's jobs one after the other, the lanes side by side.

    Raises SetupError when one fails, and stops the others.
    """
    waiting = [list(lane) for lane in lanes if lane]
    running: dict[int, RunningJob] = {}
    try:
        while any(waiting) or running:
            for lane, jobs in enumerate(waiting):
                if lane in running and running[lane].done():
                    done = running.pop(lane)
                    console.say(f"{done.name}: done in {done.elapsed()}")
                if lane not in running and jobs:
                    running[lane] = RunningJob(jobs.pop(0))
            if running:
                console.status(", ".join(job.status() for job in running.values()))
                time.sleep(POLL_SECONDS)
    finally:
        for job in running.values():
            job.stop()
