"""Stands between `vestal serve` and TorchServe and cleans up, whichever of them is killed.

Run as a script with nothing but the standard library, in a session of its own, so that neither a
Ctrl-C nor the death of `vestal serve` reaches it:

    guardian.py TEMP REMOVE...

It makes a folder in TEMP and says so ({"folder": ...}), reads one line of JSON (`command`,
`environment`, `cwd`, `output`), starts that in a process group of its own and says so
({"pid": ...}, or {"error": ...}). When its standard input closes, or on SIGTERM, it ends every
process below it; when the command ends by itself, it ends what is left of it and says
({"exit": status}). In every case the folder and the files REMOVE are gone when it exits.
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
"""From SIGTERM to SIGKILL. TorchServe drops every connection at once on SIGTERM, then idles for two
seconds or more: nobody gains from a longer wait."""
_KILL_SECONDS = 10.0
_PR_SET_CHILD_SUBREAPER = 36


def clean(folder: str, files: Sequence[str]) -> None:
    """Removes the folder and the files; those that are gone already are fine."""
    for file in files:
        with contextlib.suppress(OSError):
            Path(file).unlink()
    shutil.rmtree(folder, ignore_errors=True)


def signal_group(group: int, number: int) -> bool:
    """Sends a signal to a process group; False when nobody is left in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS: EPERM when only zombies are left
        return False
    return True


def main(arguments: Sequence[str]) -> None:
    temp, files = arguments[0], arguments[1:]
    wake, wake_write = os.pipe()
    for end in (wake, wake_write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)  # only the wake-up counts
    _adopt_orphans()
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=temp)
    status = None
    try:
        _say(folder=folder)
        job = json.loads(sys.stdin.buffer.readline() or b"null")
        if job is not None:
            status = _guard(job, wake)
    finally:
        clean(folder, files)
    if status is not None:
        _say(exit=status)


def _guard(job: dict[str, Any], wake: int) -> int | None:
    """Runs the job until it ends (its status) or is to be stopped (None)."""
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
        _say(error=str(error))
        return None
    _say(pid=process.pid)
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
    # The whole group: a worker that still imports torch would not hear of the end from TorchServe.
    signal_group(process.pid, signal.SIGTERM)
    if _gone(process, wake, GRACE_SECONDS, lambda: None):
        return

    def kill() -> None:
        signal_group(process.pid, signal.SIGKILL)
        for child in _children():  # those that left the group
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    _gone(process, wake, _KILL_SECONDS, kill)


def _gone(
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
    """Collects the children that ended, adopted ones too; False when none is left."""
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
    """Makes this process the parent of every orphan below it (Linux), so that none can hide."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _children() -> list[int]:
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The second field is the program's name in brackets, which may hold anything.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            if parent == os.getpid():
                children.append(int(stat.parent.name))
    return children


def _say(**message: object) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(1, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
