"""Processes that one of ours starts, waits for, and must not leave behind when it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PARENT = "VESTAL_PARENT"
_PR_SET_PDEATHSIG = 1


def parents_pid() -> dict[str, str]:
    """What `end_with_parent` needs in the environment of a process that this one starts."""
    return {_PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Let the kernel kill this process when the thread that started it ends (Linux only).

    A process that was not started with `parents_pid` goes on as it is.
    """
    parent = os.environ.pop(_PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)
