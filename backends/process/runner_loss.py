"""Why a runner was lost."""

from __future__ import annotations

import enum
import signal
from typing import NamedTuple

# What a worker exits with that could not allocate memory (EX_OSERR of sysexits.h).
OUT_OF_MEMORY_CODE = 71


class LossReason(enum.Enum):
    """The kinds of losses; the values are labels of metrics."""

    KILLED = "killed"  # by SIGKILL, from outside
    CRASHED = "crashed"  # by another signal, or by an error of its own
    HUNG = "hung"  # a step, or loading, took too long
    OUT_OF_MEMORY = "out_of_memory"  # it met its limit, or the system's
    WRONG_RESULT = "wrong_result"  # what it sent was no result of the step that it was asked for
    NOT_LOADED = "not_loaded"  # another was started, and could not load the model


class RunnerLoss(NamedTuple):
    """A runner's end.

    Attributes:
        reason: The label.
        description: The same in words.
        outside: Whether it is known that no request caused it: the process was
            killed or stopped by another.
    """

    reason: LossReason
    description: str
    outside: bool = False


def loss_from_exit_code(code: int | None, *, memory_short: bool = False) -> RunnerLoss:
    """What a process's exit says of its end.

    Args:
        code: The exit code; below 0 a signal's number, as `subprocess` has it;
            None where nobody knows.
        memory_short: Whether the system has killed processes for want of
            memory while it lived.
    """
    if code == OUT_OF_MEMORY_CODE:
        return RunnerLoss(LossReason.OUT_OF_MEMORY, "its process could not get more memory")
    if code == -signal.SIGKILL:
        if memory_short:
            return RunnerLoss(LossReason.OUT_OF_MEMORY, "the system killed it for want of memory")
        return RunnerLoss(LossReason.KILLED, "its process was killed (SIGKILL)", outside=True)
    if code is not None and code < 0:
        return RunnerLoss(LossReason.CRASHED, f"its process was ended by {_signal_name(-code)}")
    if code is None:
        return RunnerLoss(LossReason.CRASHED, "its process ended")
    return RunnerLoss(LossReason.CRASHED, f"its process ended with exit code {code}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
