"""Find workers that are READY and respond to nothing, and replace workers.

TorchServe kills a worker that does not respond to a batch within responseTimeout, which may be
long, but never one that does not respond to a request for its description: it waits for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

from vestal.fleet.fence import fence

PROBE_SECONDS = 60.0
"""Time in which a worker must respond, unless it uses the CPU."""
_SHORT_SECONDS = 5.0
_IDLE_CPU_SECONDS = 0.5


@dataclass(frozen=True)
class Activity:
    """What a process has done: `switches` of its main thread, CPU time of all threads in s."""

    switches: int
    cpu: float


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
    probe: Callable[[float], bool], pids: Iterable[int], seconds: float = PROBE_SECONDS
) -> list[int]:
    """Return the workers that respond to nothing and do nothing; blocks for `seconds` if any.

    TorchServe gives each request to the worker that has been idle for the longest time. So two
    rounds of requests reach every idle worker. If one is not answered, a worker is stuck or busy:
    the others become active by another round, and a busy worker uses the CPU. A stopped process, a
    deadlock and a wait for a lock or a connection do neither.

    Args:
        probe: requests the handler's description; True if a worker responds within the seconds,
            with an error, too.
        pids: of all workers of the version, all of them READY.
        seconds: time limit for a response.
    """
    workers = list(pids)
    rounds = 2 * len(workers)
    for _ in range(rounds):
        before = activity(workers)
        if not probe(seconds):
            break
    else:
        return []
    for _ in range(rounds):
        if not probe(_SHORT_SECONDS):
            break
    after = activity(workers)
    return [
        pid
        for pid in workers
        if pid in before
        and pid in after
        and after[pid].switches == before[pid].switches
        and after[pid].cpu - before[pid].cpu < _IDLE_CPU_SECONDS
    ]


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

    The requests of its batch get 507; those in the queue are answered by other workers. Setting the
    number of workers to 0 would refuse new requests (503) until a worker is there again.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(pid).kill()


def replace_idle(management: str, token: str | None, model: str, version: str, pid: int) -> None:
    """Kill a worker while no worker of the version has a request; TorchServe starts another one.

    New requests wait in the queue, until the new worker has loaded if it is the only one. Arguments
    and errors as for `fence`.
    """
    with fence(management, token, model, version):
        replace_stuck(pid)
