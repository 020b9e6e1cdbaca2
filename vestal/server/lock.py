"""One `vestal serve` per project: a lock on the .vestal folder.

The guardian inherits the open folder, so the lock ends when `vestal serve` and the guardian have
ended and everything is cleaned up. It leaves no file behind.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from vestal.errors import VestalError
from vestal.files.locks import FileLock
from vestal.project import Project, ReadyFile

_GUARDIAN_SECONDS = 20.0
"""Time limit for the guardian of a killed `vestal serve`; it cleans up in about 10 s at most."""


def lock_project(project: Project) -> FileLock:
    """Create .vestal (mode 0700) and lock it.

    Raises:
        VestalError: another `vestal serve` holds the lock, or the folder cannot be created.
    """
    try:
        project.state.mkdir(mode=0o700, exist_ok=True)
        project.state.chmod(0o700)
        folder = FileLock(project.state)
    except OSError as error:
        raise VestalError(
            f"{project.state} cannot be used for the server's keys and logs ({error.strerror}); "
            "expected a folder that you can write to"
        ) from None
    try:
        _acquire(project, folder)
    except BaseException:
        folder.release()
        raise
    return folder


def _acquire(project: Project, folder: FileLock) -> None:
    deadline = time.monotonic() + _GUARDIAN_SECONDS
    while not folder.acquire():
        owner = _owner(project.state) or _ready_pid(project)
        if owner is not None and _alive(owner):
            raise VestalError(_already_running(project, owner))
        if time.monotonic() > deadline:
            raise VestalError(
                f"another `vestal serve` in {project.root} has not ended yet. "
                "Wait for it, or serve in another folder"
            )
        time.sleep(0.1)


def _already_running(project: Project, owner: int) -> str:
    state = "starting or stopping"
    with contextlib.suppress(FileNotFoundError, VestalError):
        state = ReadyFile.read(project.ready_file).inference
    return (
        f"`vestal serve` is already running in this project (pid {owner}, {state}). "
        f"Use that server, or stop it first (`kill {owner}`)"
    )


def _ready_pid(project: Project) -> int | None:
    try:
        return ReadyFile.read(project.ready_file).pid
    except (FileNotFoundError, VestalError):
        return None


def _owner(folder: Path) -> int | None:
    """Return the process that holds the lock, from /proc/locks; None if unknown."""
    status = folder.stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == f"{device}:{status.st_ino}":
                return int(fields[4])
    return None


def _alive(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
