"""Exclusive locks on files and folders, each held by one process until it ends.

A lock of `flock` belongs to the open file, which a forked child shares: the child would hold the
lock after the parent's death. A forked child therefore closes its copies at once.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path


class FileLock:
    """A lock on a file or folder; closed in a forked child.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        flags = os.O_RDWR | os.O_CREAT if create else os.O_RDONLY
        with _forking:  # no fork between opening and registering
            self._descriptor: int | None = os.open(path, flags, 0o600)
            _open.add(self)

    def acquire(self, *, wait: bool = False) -> bool:
        """Lock the file; False if another process or another FileLock holds the lock.

        Raises:
            ImportError: the system has no flock (Windows).
            OSError: the file system does not support locks.
        """
        import fcntl

        try:
            fcntl.flock(self.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def fileno(self) -> int:
        """Return the descriptor; a child that inherits it (`pass_fds`) holds the lock too."""
        if self._descriptor is None:
            raise ValueError("the lock was released, or this process is a fork of its owner")
        return self._descriptor

    def release(self) -> None:
        """Unlock and close the file; a second call does nothing."""
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
