"""Let starting workers, and those of shadows, use only CPU time that nobody else needs.

A worker that starts computes for 3 to 7 s (it imports torch and loads its model), and that of a
shadow as much as the live one. At normal priority, they take cores from workers that serve. With
Linux' policy SCHED_IDLE, every other process preempts them at once.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from pathlib import Path

import psutil

_ROUNDS = 100
_NICE_RANGE = 20
_INITIAL_NAMESPACE = ["0", "0", "4294967295"]
"""Every user has its own number: see user_namespaces(7)."""
_POLL_SECONDS = 0.1


def is_reversible() -> bool:
    """Whether this process may set the policy, and set the normal policy again.

    The latter needs CAP_SYS_NICE or a limit `RLIMIT_NICE` of 20 (systemd: `LimitNICE=+0`). The
    capabilities of a user namespace, as in a rootless container, do not count.
    """
    if not hasattr(os, "SCHED_IDLE"):
        return False
    limit = resource.getrlimit(resource.RLIMIT_NICE)[0]
    if limit == resource.RLIM_INFINITY or limit >= _NICE_RANGE - os.getpriority(os.PRIO_PROCESS, 0):
        return True
    with contextlib.suppress(OSError, StopIteration):
        if Path("/proc/self/uid_map").read_text().split() != _INITIAL_NAMESPACE:
            return False
        status = Path("/proc/self/status").read_text()
        effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
        return bool(int(effective.split()[1], 16) >> 23 & 1)  # CAP_SYS_NICE
    return False


def yield_to_others(pid: int) -> None:
    """Give a process and its children the policy SCHED_IDLE; does nothing if they have ended."""
    _set_policy(pid, os.SCHED_IDLE)


def restore(pid: int) -> None:
    """Give a process and its children the normal policy again."""
    _set_policy(pid, os.SCHED_OTHER)


def _set_policy(pid: int, policy: int) -> None:
    for _ in range(_ROUNDS):
        # A thread inherits the policy of the thread that creates it, also meanwhile.
        others = [each for each in _threads(pid) if _policy(each) not in (policy, None)]
        if not others:
            return
        for thread in others:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(thread, policy, os.sched_param(0))


def _threads(pid: int) -> list[int]:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        found = []
        for each in family:
            with contextlib.suppress(psutil.Error):
                found += [thread.id for thread in each.threads()]
        return found
    return []


def _policy(thread: int) -> int | None:
    try:
        return os.sched_getscheduler(thread)
    except ProcessLookupError:
        return None


class ShadowWorkers:
    """Keeps the workers of shadows at idle CPU time; does nothing if that could not be undone."""

    def __init__(self) -> None:
        self._lowered: set[int] = set()

    def update(self, pids: set[int]) -> None:
        """Lower these READY workers; restore the others that were lowered and still run."""
        if not (pids or self._lowered) or not is_reversible():
            return
        for pid in pids:
            # The end of a `StartingWorkers` restores a worker that was lowered here before.
            if _policy(pid) not in (os.SCHED_IDLE, None):
                yield_to_others(pid)
        for pid in self._lowered - pids:
            restore(pid)
        self._lowered = set(pids)


class StartingWorkers:
    """Within the `with`, worker processes that TorchServe starts use only idle CPU time.

    Does nothing if the policy could not be restored. A worker that gets no CPU time would never
    load, so the normal policy returns after `seconds`, and when one of the other workers has ended:
    its successor must serve soon.

    Args:
        server: process id of TorchServe.
    """

    def __init__(self, server: int, seconds: float) -> None:
        self._server, self._seconds = server, seconds
        self._before: set[int] = set()
        self._lowered: set[int] = set()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        if is_reversible():
            self._before = self._workers()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        deadline = time.monotonic() + self._seconds
        try:
            while not self._ended.wait(_POLL_SECONDS) and time.monotonic() < deadline:
                workers = self._workers()
                if not self._before <= workers:
                    break
                for pid in workers - self._before - self._lowered:
                    self._lowered.add(pid)
                    yield_to_others(pid)
        finally:
            for pid in self._lowered:
                restore(pid)

    def _workers(self) -> set[int]:
        try:
            return {child.pid for child in psutil.Process(self._server).children()}
        except psutil.Error:
            return set()
