"""Wait until a version is idle: its queue is empty, and no worker processes a batch.

TorchServe reports the queue of a version, but not what its workers process, and unregistering kills
them. A describe with `customized=true` waits for a worker until it has finished its batch. With
several workers it always goes to an idle one, however busy the others are. So as many different
workers must respond as are READY, while no process is replaced. Vestal's handlers put a random id
of their process into the description (`"worker"`; archives packed by 0.1: `"pid"`). With other
handlers, several workers are known to be idle only after `responseTimeout`, when TorchServe has
killed the busy ones.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from vestal.client.base import CallContext
from vestal.client.errors import DeadlineExceeded
from vestal.client.flow import Flow
from vestal.client.management import describe, probe
from vestal.client.readiness import out_of_time, pause

if TYPE_CHECKING:
    from vestal.client.descriptions import ModelDescription

POLL = 0.05  # seconds between two checks


def drain(context: CallContext, model: str, version: str) -> Flow[None]:
    """Return when the version is idle; raises DeadlineExceeded, NotFound.

    The version must receive no new requests: it is not the default version, or nobody calls it.
    """
    idle: set[int | str] = set()
    processes: set[int] = set()
    quiet_since: float | None = None
    state: str | None = None
    while True:
        try:
            description = yield from describe(context, model, version)
        except DeadlineExceeded as error:
            if state is None:
                raise
            raise out_of_time(context, state) from error
        ready = {worker.pid for worker in description.ready_workers if worker.pid is not None}
        if ready != processes:
            # A worker that responded may have been replaced.
            processes = ready
            idle.clear()
        if description.queue_pending:
            idle.clear()
            quiet_since = None
            state = _state(description, "requests in its queue")
            yield from pause(context, POLL, state)
            continue
        if quiet_since is None:
            quiet_since = time.monotonic()
        # A worker that is not READY has no requests: TorchServe responded to them when it died.
        quiet = time.monotonic() - quiet_since
        if len(idle) >= len(ready) or quiet > description.response_timeout:
            return
        responded, customized = yield from probe(context, model, description.version)
        worker = worker_that_described(customized, ready) if responded else None
        if worker is not None and worker not in idle:
            idle.add(worker)
            continue
        if responded and worker is None:
            _check_time(context, description, quiet)
        state = _state(description, "a worker that is busy")
        yield from pause(context, POLL, state)


def worker_that_described(description: Any, processes: set[int]) -> int | str | None:
    """Return the id of the worker that sent a custom description; None if it is unknown.

    Args:
        description: `customizedMetadata` of TorchServe's description.
        processes: process ids of the version's workers.
    """
    details = description if isinstance(description, dict) else {}
    worker, pid = details.get("worker"), details.get("pid")
    if isinstance(worker, str):
        return worker
    if isinstance(pid, int) and pid in processes:
        return pid
    return next(iter(processes)) if len(processes) == 1 else None


def _check_time(context: CallContext, description: ModelDescription, quiet: float) -> None:
    """Raise DeadlineExceeded now if the deadline is before the end of responseTimeout."""
    needed, left = description.response_timeout - quiet, context.deadline.remaining()
    if needed < left:
        return
    raise DeadlineExceeded(
        f"{description.name} {description.version} has {len(description.workers)} workers, and its "
        f"handler does not identify the one that responds: they are known to be idle only after "
        f"responseTimeout, in {needed:.0f} s, but only {left:.0f} s are left",
        model=description.name,
        version=description.version,
        hint="Pass a longer timeout=, or drain=False if nobody calls the version. To drain as soon "
        'as it is idle, the handler\'s description needs {"worker": ID}, with a random ID made '
        "when the handler loads",
    )


def _state(description: ModelDescription, reason: str) -> str:
    return f"{description.name} {description.version} is not idle: it has {reason}"
