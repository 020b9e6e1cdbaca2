"""One `vestal serve` in a project at a time: a lock on the .vestal folder itself.

The lock belongs to the open folder, which the guardian inherits: it ends with the last of the two,
when everything is cleaned up, and leaves no file behind. A forked child does not hold it.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from vestal.errors import VestalError
from vestal.files.locks import FileLock
from vestal.project import Project, ReadyFile

_PATIENCE_SECONDS = 20.0
"""For a guardian that still ends what a killed `vestal serve` left; it takes some 10 s at most."""


def lock(project: Project) -> FileLock:
    """Makes .vestal (mode 0700) and locks it until the lock is released.

    Raises VestalError where another `vestal serve` holds it, naming its pid and address.
    """
    try:
        project.state.mkdir(mode=0o700, exist_ok=True)
        project.state.chmod(0o700)
        folder = FileLock(project.state)
    except OSError as error:
        raise VestalError(
            f"{project.state} cannot be the server's folder ({error.strerror}): it holds its keys "
            "and logs, and must be a folder that you can write to"
        ) from None
    try:
        _wait_for(project, folder)
    except BaseException:
        folder.release()
        raise
    return folder


def _wait_for(project: Project, folder: FileLock) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not folder.acquire():
        owner = _owner(project.state) or _ready_pid(project)
        if owner is not None and _alive(owner):
            raise VestalError(_running(project, owner))
        if time.monotonic() > deadline:
            raise VestalError(
                f"another `vestal serve` in {project.root} has not ended yet: "
                "wait for it, or serve in another folder"
            )
        time.sleep(0.1)


def _running(project: Project, owner: int) -> str:
    where = "still starting or stopping"
    with contextlib.suppress(FileNotFoundError, VestalError):
        where = ReadyFile.read(project.ready_file).inference
    return (
        f"`vestal serve` runs in this project already (pid {owner}, {where}): "
        f"call that one, or stop it first (`kill {owner}`)"
    )


def _ready_pid(project: Project) -> int | None:
    try:
        return ReadyFile.read(project.ready_file).pid
    except (FileNotFoundError, VestalError):
        return None


def _owner(folder: Path) -> int | None:
    """The process that took the lock, which Linux tells; None where nobody says."""
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
