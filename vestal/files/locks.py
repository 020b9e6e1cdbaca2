"""Exclusive locks on files and folders that belong to one process and end with it.

A lock of `flock` belongs to the open file, which a fork shares: a child that outlives its parent
would go on holding the parent's lock. So a forked child closes its copies at once.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path


class FileLock:
    """A file or folder, opened to be locked; closed in a forked child.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        with _forking:  # no fork between opening and remembering
            self._descriptor: int | None = os.open(path, flags, 0o600)
            _open.add(self)

    def acquire(self, *, wait: bool = False) -> bool:
        """Lock it; False if another process or another FileLock holds it.

        Raises:
            ImportError: this system has no flock (Windows).
            OSError: the file system has no locks.
        """
        import fcntl

        try:
            fcntl.flock(self.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def fileno(self) -> int:
        """The descriptor, for a program that is to hold the lock too (`pass_fds`)."""
        if self._descriptor is None:
            raise ValueError("the lock was released, or this process is a fork of its owner")
        return self._descriptor

    def release(self) -> None:
        """Unlock and close it; once is enough."""
        with _forking:
            descriptor, self._descriptor = self._descriptor, None
            _open.discard(self)
            if descriptor is not None:
                os.close(descriptor)


_open: set[FileLock] = set()
_forking = threading.RLock()


def _close_in_child() -> None:
    for lock in list(_open):
        lock.release()
    _forking.release()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(
        before=_forking.acquire,
        after_in_parent=_forking.release,
        after_in_child=_close_in_child,
    )
