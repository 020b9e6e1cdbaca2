"""A process between `vestal serve` and TorchServe that cleans up if either of them is killed.

It is a script that imports only the standard library, in a session of its own, so that it does not
get Ctrl-C and outlives `vestal serve`:

    guardian.py TEMP FILE...

1. It creates a folder in TEMP and prints {"folder": ...}.
2. It reads a line of JSON (`command`, `environment`, `cwd`, `output`), starts the command in a
   process group of its own, and prints {"pid": ...} or {"error": ...}.
3. When its standard input is closed, or on SIGTERM, it ends all processes below it. When the
   command ends by itself, it ends the processes that are left, and prints {"exit": status}.

When it exits, the folder and every FILE are removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PREFIX = "vestal-serve-"
GRACE_SECONDS = 1.0
"""From SIGTERM to SIGKILL. TorchServe closes all connections at SIGTERM and then only waits for two
seconds or more, so a longer time would not help."""
_KILL_SECONDS = 10.0
_PR_SET_CHILD_SUBREAPER = 36


def remove(folder: str, files: Sequence[str]) -> None:
    """Remove the folder and the files that exist."""
    for file in files:
        with contextlib.suppress(OSError):
            Path(file).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; False if it has no processes."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS: EPERM if there are only zombies
        return False
    return True


def main(arguments: Sequence[str]) -> None:
    temp, files = arguments[0], arguments[1:]
    wake, wake_write = os.pipe()
    for end in (wake, wake_write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # they only write to the wake-up pipe
    _adopt_orphans()
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=temp)
    status = None
    try:
        _send(folder=folder)
        job = json.loads(sys.stdin.buffer.readline() or b"null")
        if job is not None:
            status = _run(job, wake)
    finally:
        remove(folder, files)
    if status is not None:
        _send(exit=status)


def _run(job: dict[str, Any], wake: int) -> int | None:
    """Run the command until it ends (return its status) or must be stopped (return None)."""
    try:
        with Path(job["output"]).open("wb") as output:
            process = subprocess.Popen(
                job["command"],
                env=job["environment"],
                cwd=job["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
    except OSError as error:
        _send(error=str(error))
        return None
    _send(pid=process.pid)
    try:
        return _watch(process, wake)
    finally:
        _end_all(process, wake)


def _watch(process: subprocess.Popen[bytes], wake: int) -> int | None:
    while True:
        readable, _, _ = select.select([0, wake], [], [])
        if 0 in readable and not os.read(0, 1024):
            return None
        if wake in readable and set(os.read(wake, 1024)) - {signal.SIGCHLD}:
            return None
        _reap(process)
        if process.returncode is not None:
            return process.returncode


def _end_all(process: subprocess.Popen[bytes], wake: int) -> None:
    # The whole group: TorchServe does not end a worker that is still importing torch.
    signal_group(process.pid, signal.SIGTERM)
    if _wait_for_end(process, wake, GRACE_SECONDS, lambda: None):
        return

    def kill() -> None:
        signal_group(process.pid, signal.SIGKILL)
        for child in _children():  # processes that have left the group
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    _wait_for_end(process, wake, _KILL_SECONDS, kill)


def _wait_for_end(
    process: subprocess.Popen[bytes], wake: int, seconds: float, act: Callable[[], None]
) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        act()
        if not _reap(process) and not signal_group(process.pid, 0):
            return True
        select.select([wake], [], [], 0.1)
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 1024)
    return False


def _reap(process: subprocess.Popen[bytes]) -> bool:
    """Collect children that have ended, including adopted ones; False if there are no children."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)


def _adopt_orphans() -> None:
    """Become the parent of every orphaned descendant (Linux), to find them all."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> list[int]:
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field is the program name in brackets, which may contain any character.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            if parent == os.getpid():
                children.append(int(stat.parent.name))
    return children


def _send(**message: object) -> None:
    with contextlib.suppress(OSError):  # `vestal serve` has ended
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
