"""Flows that scale and unregister a version."""

from __future__ import annotations

from urllib.parse import urlsplit

from vestal.client.base import CallContext
from vestal.client.draining import drain
from vestal.client.errors import Conflict
from vestal.client.flow import Flow, management_call
from vestal.client.management import describe, model_versions
from vestal.client.readiness import POLL, LostProcesses, pause
from vestal.client.retry import send
from vestal.errors import UsageError


def scale(
    context: CallContext, model: str, version: str | None, *, workers: int, wait: bool
) -> Flow[None]:
    """Set the number of workers; `wait`: until exactly this number is READY."""
    count = worker_count(workers)
    query = {"min_worker": str(count), "max_worker": str(count), "synchronous": "false"}
    yield from send(context, management_call("PUT", model, version, query=query))
    lost = LostProcesses()
    while wait:
        description = yield from describe(context, model, version)
        ready = len(description.ready_workers)
        if ready == len(description.workers) == count:
            return
        lost.check(description)
        state = f"{model} {description.version}: {ready} of {count} workers READY"
        yield from pause(context, POLL, state)


def unregister(context: CallContext, model: str, version: str, *, drained: bool) -> Flow[None]:
    """Remove a version; `drained`: wait until it is idle first."""
    served = yield from model_versions(context, model)
    if len(served) > 1 and any(info.version == version and info.default for info in served):
        others = ", ".join(info.version for info in served if info.version != version)
        raise Conflict(
            f"{model} {version} is the default version, which TorchServe does not remove (403) "
            f"while others are served ({others})",
            model=model,
            version=version,
            hint="Make another version the default first: client.set_default(model, version)",
        )
    if drained:
        yield from drain(context, model, version)
    yield from send(context, management_call("DELETE", model, version, repeatable=False))


def archive_name(archive: str) -> str:
    """Check a file name of the model store; raises UsageError for a URL or a path.

    When TorchServe unregisters a model that was registered by URL, it deletes the archive.
    """
    if not archive or urlsplit(archive).scheme or "/" in archive or "\\" in archive:
        raise UsageError(
            f"archive is {archive!r}: expected the name of a file in the server's model store, "
            'such as "mnist-1.0.mar", not a URL and not a path'
        )
    return archive


def worker_count(workers: object) -> int:
    """Check a number of workers; raises UsageError unless it is a whole number of 0 or more."""
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise UsageError(f"workers is {workers!r}: expected a number of 0 or more")
    return workers
