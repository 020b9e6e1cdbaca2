"""Register a version, verify it, and unregister it again if that fails.

A version is verified when every worker is READY, one of them responds, and the version's prediction
for the sample in its archive is the packed one (`vestal.client.verifying`). Nothing is checked with
0 workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vestal.client.base import CallContext
from vestal.client.errors import (
    ClientError,
    NotFound,
    RequestRefused,
    ServerFailed,
    TokenError,
)
from vestal.client.flow import ApiCall, Flow, Pause
from vestal.client.lifecycle import archive_name, unregister, worker_count
from vestal.client.management import describe, model_versions, models, set_default
from vestal.client.readiness import POLL, wait_ready
from vestal.client.retry import send
from vestal.client.verifying import verify

if TYPE_CHECKING:
    from vestal.client.descriptions import ModelInfo

UNDO_SECONDS = 15.0  # time limit for unregistering a version, even after the call's own deadline
LATE_SECONDS = 5.0
"""Seconds in which TorchServe may still register an archive whose caller has disconnected."""


class Registration:
    """Registers one archive: `flow`, and `undo` if it fails."""

    def __init__(
        self,
        context: CallContext,
        archive: str,
        model: str | None,
        workers: int,
        *,
        wait: bool = True,
    ) -> None:
        self._context = context
        self._archive, self._model = archive_name(archive), model
        self._workers, self._wait = worker_count(workers), wait
        self._before: set[tuple[str, str]] = set()
        self._sent = self._accepted = False

    def flow(self) -> Flow[ModelInfo]:
        """Register, and verify if it waits; raises NotReady if the version fails."""
        context = self._context
        self._before = set((yield from self._registered(context)))
        yield from self._register(context)
        # TorchServe's response does not name the archive's model and version.
        new = (yield from self._registered(context)).keys() - self._before
        if not new:
            raise ServerFailed(
                f"{self._archive} was registered, but no new version of it is served",
                model=self._model,
                hint="Was it unregistered at the same time?",
            )
        name, version = min(new)
        if self._wait and (yield from describe(context, name, version)).min_workers > 0:
            yield from wait_ready(context, name, version, registered=True)
            yield from verify(context, name, version)
        return (yield from self._registered(context))[name, version]

    def _register(self, context: CallContext) -> Flow[None]:
        query = {
            "url": self._archive,
            "initial_workers": str(self._workers),
            # Synchronously, TorchServe would block a thread that inference needs.
            "synchronous": "false",
        }
        if self._model is not None:
            query["model_name"] = self._model
        call = ApiCall("management", "POST", "/models", query, model=self._model, repeatable=False)
        self._sent = True
        try:
            yield from send(context, call)
        except (RequestRefused, TokenError):
            self._sent = False  # this call has registered nothing
            raise
        self._accepted = True

    def undo(self, context: CallContext, error: BaseException) -> Flow[None]:
        """Unregister the version that `flow` registered, and add the result to the error's hint."""
        if not self._sent:
            return
        try:
            result = yield from self._remove(context)
        except ClientError as failure:
            result = (
                f"{self._archive} may still be registered, because unregistering it failed too "
                f"({failure.args[0]}): see client.models()"
            )
        if result and isinstance(error, ClientError):
            error.hint = f"{error.hint}. {result}" if error.hint else result

    def _remove(self, context: CallContext) -> Flow[str | None]:
        new = yield from self._find_new(context)
        if not new:
            return None
        if len(new) > 1:  # another client registered this archive at the same time
            listed = ", ".join(f"{name} {version}" for name, version in sorted(new))
            return f"One of {listed} is still registered: unregister it"
        ((name, version),) = new
        served = yield from model_versions(context, name)
        others = [info.version for info in served if info.version != version]
        if others and any(info.default and info.version == version for info in served):
            yield from set_default(context, name, (yield from _new_default(context, name, others)))
        yield from unregister(context, name, version, drained=False)
        return f"{name} {version} was unregistered again"

    def _find_new(self, context: CallContext) -> Flow[set[tuple[str, str]]]:
        while True:
            new = set((yield from self._registered(context))) - self._before
            if new or self._accepted or context.deadline.elapsed > LATE_SECONDS:
                return new
            yield Pause(POLL)

    def _registered(self, context: CallContext) -> Flow[dict[tuple[str, str], ModelInfo]]:
        """Return the served versions of the archive, by name and version."""
        try:
            if self._model is None:
                served = yield from models(context)
            else:
                served = yield from model_versions(context, self._model)
        except NotFound:
            return {}
        return {(info.name, info.version): info for info in served if info.archive == self._archive}


def _new_default(context: CallContext, name: str, versions: list[str]) -> Flow[str]:
    """Choose the new default version: the first that is ready, or the first of all."""
    for version in versions:
        if (yield from describe(context, name, version)).ready:
            return version
    return versions[0]
