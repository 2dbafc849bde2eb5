"""Runs the self-check in a separate process, and distinguishes crash, hang, and wrong numbers."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from llm_serving_engine.backends.build_record import Check, Outcome
from llm_serving_engine.backends.process.runner_loss import loss_from_exit_code
from llm_serving_engine.backends.self_check.faults import Fault
from llm_serving_engine.backends.self_check.weights import CHECKED_TYPES
from llm_serving_engine.scheduler.durations import duration

SECONDS_MAX = 60.0
"""For a weight type; a right one takes a tenth of a second on an idle machine."""

_WORKER = "llm_serving_engine.backends.self_check.worker"
_ENABLED = " = 1"
# Threads that wait sleep: those that spin take the cores from one another on a busy machine.
_PATIENCE = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}


@dataclass
class Findings:
    """The findings of the self-check.

    Attributes:
        checks: By weight type.
        library_features: What llama.cpp says that it was compiled with; empty where it did
            not come to saying it.
    """

    checks: dict[str, Check] = field(default_factory=dict)
    library_features: tuple[str, ...] = ()


def check_types(
    types: Sequence[str] = CHECKED_TYPES,
    seconds_max: float = SECONDS_MAX,
    fault: Fault | None = None,
) -> Findings:
    """Check weight types; what one does to the process is not held against the next.

    Args:
        types: Their names.
        seconds_max: How long the process may take for each. After the first that takes
            longer, the others are not tried.
        fault: What is to go wrong with the first type, for tests.
    """
    findings = Findings()
    while remaining := [name for name in types if name not in findings.checks]:
        worker = _Worker(remaining, seconds_max, fault if remaining == list(types) else None)
        loss = worker.run(findings)
        if loss is None:
            return findings
        failed = [name for name in types if name not in findings.checks]
        if failed:
            findings.checks[failed[0]] = loss
        if loss.outcome is Outcome.HANG or worker.began_none:
            for name in failed[1:]:
                findings.checks[name] = Check(loss.outcome, None, f"not tried: {loss.detail}")
    return findings


class _Worker:
    """One process of the check."""

    def __init__(self, types: Sequence[str], seconds_max: float, fault: Fault | None) -> None:
        self._command = [sys.executable, "-m", _WORKER, *types]
        if fault is not None:
            self._command += ["--fault", fault.value]
        self._seconds_max = seconds_max
        self._awaited = len(types)
        self.began_none = True

    def run(self, findings: Findings) -> Check | None:
        """Add to the findings until the process ends; what ended it, or None if all is done."""
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **_PATIENCE},
            )
            assert process.stdout is not None
            try:
                return self._follow(process, process.stdout, errors, findings)
            finally:
                process.kill()
                process.wait()
                process.stdout.close()

    def _follow(
        self,
        process: subprocess.Popen[str],
        output: IO[str],
        errors: IO[str],
        findings: Findings,
    ) -> Check | None:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        reader = threading.Thread(target=_read, args=(output, lines), daemon=True)
        reader.start()
        until = time.monotonic() + self._seconds_max
        while True:
            try:
                line = lines.get(timeout=max(until - time.monotonic(), 0))
            except queue.Empty:
                process.kill()
                reader.join()
                return Check(Outcome.HANG, None, f"no answer in {duration(self._seconds_max)}")
            if not line:
                code = process.wait()
                return None if code == 0 and not self._awaited else self._crash(code, errors)
            until = time.monotonic() + self._seconds_max
            self._take(json.loads(line), findings)

    def _take(self, message: dict[str, Any], findings: Findings) -> None:
        if "features" in message:
            findings.library_features = _features(message["features"])
        elif "begins" in message:
            self.began_none = False
        else:
            check = message["check"]
            findings.checks[message["done"]] = Check(
                Outcome(check["outcome"]), check["error"], check["detail"]
            )
            self._awaited -= 1

    def _crash(self, code: int, errors: IO[str]) -> Check:
        errors.seek(0)
        said = [line.strip() for line in errors if line.strip()]
        detail = loss_from_exit_code(code).description
        return Check(Outcome.CRASH, None, f"{detail}: {said[-1]}" if said else detail)


def _read(output: IO[str], lines: queue.SimpleQueue[str]) -> None:
    """Hand the lines on, and at the end an empty one."""
    for line in output:
        lines.put(line)
    lines.put("")


def _features(system_info: str) -> tuple[str, ...]:
    """The names that are on in llama.cpp's own line, such as "CPU : SSE3 = 1 | AVX = 1 | "."""
    parts = (part.rpartition(":")[2].strip() for part in system_info.split("|"))
    return tuple(part.removesuffix(_ENABLED) for part in parts if part.endswith(_ENABLED))
