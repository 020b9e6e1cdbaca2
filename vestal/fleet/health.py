"""Find workers that are READY and respond to nothing, and replace workers.

TorchServe kills a worker that does not respond to a batch within responseTimeout, which may be
long. For a request for the handler's description, WorkerThread.java waits without a limit.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from vestal.fleet.fence import Management, fence

STUCK_SECONDS = 60.0
"""Time after which a worker that does nothing is stuck. A handler must not wait that long."""
_PROBE_SECONDS = 2.0
_IDLE_CPU_SECONDS = 0.5


@dataclass(frozen=True)
class Activity:
    """What a process has done: `switches` of its main thread, CPU time of all threads in s."""

    switches: int
    cpu: float

    def is_idle(self, later: Activity) -> bool:
        """Whether the process has done nothing until `later`."""
        return later.switches == self.switches and later.cpu - self.cpu < _IDLE_CPU_SECONDS


def activity(pids: Iterable[int]) -> dict[int, Activity]:
    """Measure the activity of the processes that exist."""
    found = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            times = process.cpu_times()
            found[pid] = Activity(process.num_ctx_switches().voluntary, times.user + times.system)
    return found


def find_stuck(
    probe: Callable[[float], bool], pids: Iterable[int], seconds: float = STUCK_SECONDS
) -> list[int]:
    """Return the workers that do nothing for `seconds`; returns at once if there are none.

    TorchServe gives each request to the worker that has been idle for the longest time, so two
    rounds of requests make every idle worker do something, and a busy one uses the CPU. A stopped
    process, a deadlock, and a wait for a lock or a connection do neither.

    Args:
        probe: requests the handler's description; True if a worker responds within the seconds,
            with an error, too.
        pids: of all workers of the version, all of them READY.
    """
    workers = list(pids)
    before = activity(workers)
    deadline = time.monotonic() + seconds
    while True:
        for _ in range(2 * len(workers)):
            if not probe(min(_PROBE_SECONDS, seconds)) and time.monotonic() > deadline:
                break
        after = activity(workers)
        stuck = [pid for pid in before.keys() & after.keys() if before[pid].is_idle(after[pid])]
        if not stuck or time.monotonic() > deadline:
            return sorted(stuck)
        time.sleep(min(_PROBE_SECONDS, seconds / 4))


def above_limit(pids: Iterable[int], limit: int) -> dict[int, int]:
    """Return the RSS of each worker that is above the limit, in bytes."""
    found = {}
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            if (rss := psutil.Process(pid).memory_info().rss) > limit:
                found[pid] = rss
    return found


def replace_stuck(pid: int) -> None:
    """Kill a stuck worker; TorchServe starts another one.

    The requests of its batch get 507 or 500; those in the queue are answered by other workers.
    Setting the number of workers to 0 and back would replace the healthy ones too, and TorchServe
    would give the batch to the next worker, which an input that blocks a handler blocks again.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).kill()


def replace_idle(management: Management, model: str, version: str, pid: int) -> None:
    """Kill a worker while no worker of the version has a request; TorchServe starts another one.

    New requests wait in the queue, until the new worker has loaded if it is the only one. Raises
    as `fence` does.
    """
    with fence(management, model, version):
        replace_stuck(pid)
