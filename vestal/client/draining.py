"""Waits until a version is idle: an empty queue, and no batch in a worker.

TorchServe counts what is queued, not what a worker has in work, and unregistering kills the workers
at once. A describe with `customized=true` goes through one worker, behind what that one is doing: a
fence. With several workers an idle one takes every fence, however busy its neighbour is. So as many
different workers must answer as are READY, while no process is replaced. Vestal's handlers put a
random id of their process in the description (`"worker"`; archives packed by 0.1 their `"pid"`). If
a handler gives none, several workers are known to be idle only after `responseTimeout`, when
TorchServe has killed whatever is still at work.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from vestal.client.base import CallContext
from vestal.client.errors import DeadlineExceeded, ErrorDetails
from vestal.client.flow import Flow
from vestal.client.management import describe, probe
from vestal.client.readiness import pause

if TYPE_CHECKING:
    from vestal.client.descriptions import ModelDescription

POLL = 0.05
"""Seconds between two checks."""


def drain(context: CallContext, model: str, version: str) -> Flow[None]:
    """Return when the version is idle; raises DeadlineExceeded, NotFound.

    The version must receive no new requests: it is not the default version, or nobody calls it.
    """
    idle: set[int | str] = set()
    processes: set[int] = set()
    quiet_since: float | None = None
    while True:
        description = yield from describe(context, model, version)
        ready = {worker.pid for worker in description.ready_workers if worker.pid is not None}
        if ready != processes:
            # A worker that responded may have been replaced.
            processes = ready
            idle.clear()
        if description.queue_pending:
            idle.clear()
            quiet_since = None
            yield from pause(context, POLL, _state(description, "requests in its queue"))
            continue
        if quiet_since is None:
            quiet_since = time.monotonic()
        # A worker that is not READY has no requests: they got a response when it died.
        quiet = time.monotonic() - quiet_since
        if len(idle) >= len(ready) or quiet > description.response_timeout:
            return
        responded, customized = yield from probe(context, model, description.version)
        worker = worker_that_described(customized, ready) if responded else None
        if worker is not None and worker not in idle:
            idle.add(worker)
            continue
        if responded and worker is None:
            _check_provable(context, description, quiet)
        yield from pause(context, POLL, _state(description, "a worker that is still at work"))


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


def _check_provable(context: CallContext, description: ModelDescription, quiet: float) -> None:
    """Raise at once if the deadline cannot be met."""
    needed = description.response_timeout - quiet
    if needed < context.deadline.remaining():
        return
    raise DeadlineExceeded(
        f"{description.name} {description.version} has {len(description.workers)} workers, and its "
        f"handler does not say which one answers: idle is certain only {needed:.0f} s from now "
        f"(responseTimeout), {context.deadline.remaining():.0f} s are left",
        ErrorDetails(
            model=description.name,
            version=description.version,
            hint="Give a longer timeout=, or drain=False if nobody uses it; a handler whose "
            'description holds {"worker": ID}, with a random ID made as it loads, is drained as '
            "soon as it is idle",
        ),
    )


def _state(description: ModelDescription, what: str) -> str:
    return f"{description.name} {description.version} is not idle: it has {what}"
