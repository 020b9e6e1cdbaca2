"""Child processes that end with their parent, even if the parent is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PARENT = "VESTAL_PARENT"
_PR_SET_PDEATHSIG = 1


def parents_pid() -> dict[str, str]:
    """Return the environment variable that `end_with_parent` needs in a child process."""
    return {_PARENT: str(os.getpid())}


def end_with_parent(number: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process a signal when the thread that started it ends (Linux only).

    Does nothing in a process that was started without `parents_pid`.
    """
    parent = os.environ.pop(_PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != int(parent):  # the parent ended before the call
        os.kill(os.getpid(), number)
