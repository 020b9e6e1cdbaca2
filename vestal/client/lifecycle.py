"""A version's life: registered, scaled, drained, unregistered."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vestal.client.context import Context
from vestal.client.draining import drain
from vestal.client.errors import Conflict, Facts, NotFound, ServerFailed
from vestal.client.management import describe, model_versions, models
from vestal.client.readiness import POLL, LostProcesses, pause, wait_ready
from vestal.client.retry import send
from vestal.client.steps import Call, Steps, path
from vestal.errors import UsageError

if TYPE_CHECKING:
    from vestal.client.descriptions import ModelInfo


def register(context: Context, archive: str, model: str | None, workers: int) -> Steps[ModelInfo]:
    """Registers, and waits until every worker is READY and one has answered.

    Asked for synchronously, TorchServe would unzip and wait on a thread that inference needs.
    """
    query = {
        "url": archive_name(archive),
        "initial_workers": str(_count(workers)),
        "synchronous": "false",
    }
    if model is not None:
        query["model_name"] = model
    before = yield from _registered(context, archive, model)
    call = Call("management", "POST", "/models", query, model=model, repeatable=False)
    yield from send(context, call)
    # TorchServe does not say which model and version an archive turned out to hold.
    new = (yield from _registered(context, archive, model)).keys() - before.keys()
    if not new:
        raise ServerFailed(
            f"{archive} was registered, but no new version of it is served",
            Facts(model=model, hint="Was it unregistered at the same time?"),
        )
    name, version = min(new)
    if (yield from describe(context, name, version)).min_workers > 0:
        yield from wait_ready(context, name, version, registered=True)
    return (yield from _registered(context, archive, name))[name, version]


def _registered(
    context: Context, archive: str, model: str | None
) -> Steps[dict[tuple[str, str], ModelInfo]]:
    try:
        served = yield from models(context) if model is None else model_versions(context, model)
    except NotFound:
        return {}
    return {(info.name, info.version): info for info in served if info.archive == archive}


def scale(context: Context, model: str, workers: int, version: str | None) -> Steps[None]:
    """Sets the number of workers and waits until so many are READY, and no other is left."""
    count = _count(workers)
    query = {"min_worker": str(count), "max_worker": str(count), "synchronous": "false"}
    target = path("models", model, version)
    yield from send(context, Call("management", "PUT", target, query, model=model, version=version))
    lost = LostProcesses()
    while True:
        description = yield from describe(context, model, version)
        ready = len(description.ready_workers)
        if ready == len(description.workers) == count:
            return
        lost.look(description)
        state = f"{model} {description.version}: {ready} of {count} workers READY"
        yield from pause(context, POLL, state)


def unregister(context: Context, model: str, version: str, *, drained: bool) -> Steps[None]:
    """Removes a version; first waits until it is idle, where `drained`."""
    served = yield from model_versions(context, model)
    if len(served) > 1 and any(info.version == version and info.default for info in served):
        others = ", ".join(info.version for info in served if info.version != version)
        raise Conflict(
            f"{model} {version} is the default version, which TorchServe does not remove (403) "
            f"while others are served ({others})",
            Facts(
                model=model,
                version=version,
                hint="Make another version the default first: client.set_default(model, version)",
            ),
        )
    if drained:
        yield from drain(context, model, version)
    target = path("models", model, version)
    yield from send(
        context,
        Call("management", "DELETE", target, model=model, version=version, repeatable=False),
    )


def archive_name(archive: str) -> str:
    """A file name in the store; raises UsageError for a URL or a path.

    TorchServe deletes the archive of a model that was registered by URL when it is unregistered.
    """
    if not archive or urlsplit(archive).scheme or "/" in archive or "\\" in archive:
        raise UsageError(
            f"archive is {archive!r}: expected the name of a file in the server's model store, "
            'such as "mnist-1.0.mar", not a URL and not a path'
        )
    return archive


def _count(workers: object) -> int:
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 0:
        raise UsageError(f"workers is {workers!r}: expected a number of 0 or more")
    return workers
