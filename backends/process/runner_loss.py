"""The reasons for the loss of a runner."""

from __future__ import annotations

import enum
import signal
from typing import NamedTuple

# A worker's exit code when it could not allocate memory (EX_OSERR of sysexits.h).
OUT_OF_MEMORY_CODE = 71


class LossReason(enum.Enum):
    """Why a runner was lost; the values are metric labels."""

    KILLED = "killed"  # by SIGKILL, from outside
    CRASHED = "crashed"  # by another signal, or by an error of its own
    HUNG = "hung"  # a step, or loading, took too long
    OUT_OF_MEMORY = "out_of_memory"  # it reached its own limit or the system's
    WRONG_RESULT = "wrong_result"  # its result did not fit the step
    NOT_LOADED = "not_loaded"  # its replacement could not load the model


class RunnerLoss(NamedTuple):
    """The loss of a runner.

    Attributes:
        reason: The reason.
        description: The reason in words.
        outside: Whether another process killed or stopped the runner, so that
            no request can have caused the loss.
    """

    reason: LossReason
    description: str
    outside: bool = False


def loss_from_exit_code(code: int | None, *, memory_short: bool = False) -> RunnerLoss:
    """Derive the reason for a loss from the worker's exit code.

    Args:
        code: The exit code; negative for a signal's number, as in `subprocess`;
            None if it is unknown.
        memory_short: Whether the system has killed processes for lack of
            memory while the worker ran.
    """
    if code == OUT_OF_MEMORY_CODE:
        return RunnerLoss(LossReason.OUT_OF_MEMORY, "its process could not get more memory")
    if code == -signal.SIGKILL:
        if memory_short:
            return RunnerLoss(LossReason.OUT_OF_MEMORY, "the system killed it for lack of memory")
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
