"""Register a version, verify it, and remove it again if that fails.

Verified means: every worker is READY, one of them answers, and the version answers the sample that
was packed into its archive as it was packed. The sample comes from the archive itself where this
client can read the server's model store, else from the version's handler. An archive without a
sample (not packed by Vestal), or registered with 0 workers, is verified as far as it can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vestal.client.base import CallContext
from vestal.client.errors import (
    ClientError,
    ConnectionFailed,
    ErrorDetails,
    NotFound,
    NotReady,
    RequestRefused,
    ServerFailed,
    TokenError,
)
from vestal.client.flow import ApiCall, BlockingIO, Flow, HTTPResponse, Pause, path
from vestal.client.lifecycle import archive_name, unregister, worker_count
from vestal.client.management import describe, model_versions, models, sample_text, set_default
from vestal.client.readiness import POLL, wait_ready
from vestal.client.retry import send
from vestal.client.settings import model_store_of

if TYPE_CHECKING:
    from vestal.client.descriptions import ModelInfo
    from vestal.mar.sample import Sample

UNDO_SECONDS = 15.0
"""Time limit for removing a version, even after the call's own deadline."""
LATE_SECONDS = 5.0
"""TorchServe unpacks an archive whose caller has gone, and registers it then."""


class Registration:
    """Registers one archive: `flow`, and `undo` if it does not finish."""

    def __init__(self, context: CallContext, archive: str, model: str | None, workers: int) -> None:
        self._context = context
        self._archive, self._model = archive_name(archive), model
        self._workers = worker_count(workers)
        self._before: set[tuple[str, str]] = set()
        self._sent = self._accepted = False

    def flow(self) -> Flow[ModelInfo]:
        """Register and verify; raises NotReady if the version fails."""
        context = self._context
        self._before = set((yield from self._registered(context)))
        yield from self._register(context)
        # TorchServe's response does not name the archive's model and version.
        new = (yield from self._registered(context)).keys() - self._before
        if not new:
            raise ServerFailed(
                f"{self._archive} was registered, but no new version of it is served",
                ErrorDetails(model=self._model, hint="Was it unregistered at the same time?"),
            )
        name, version = min(new)
        if (yield from describe(context, name, version)).min_workers > 0:
            yield from wait_ready(context, name, version, registered=True)
            yield from _verify(context, self._archive, name, version)
        return (yield from self._registered(context))[name, version]

    def _register(self, context: CallContext) -> Flow[None]:
        query = {
            "url": self._archive,
            "initial_workers": str(self._workers),
            # Synchronously, TorchServe would unzip and wait on a thread that inference needs.
            "synchronous": "false",
        }
        if self._model is not None:
            query["model_name"] = self._model
        call = ApiCall("management", "POST", "/models", query, model=self._model, repeatable=False)
        self._sent = True
        try:
            yield from send(context, call)
        except (RequestRefused, TokenError):
            self._sent = False  # what is served there is not ours
            raise
        self._accepted = True

    def undo(self, context: CallContext, error: BaseException) -> Flow[None]:
        """Remove the version that `flow` registered; the error's hint tells the result."""
        if not self._sent:
            return
        try:
            result = yield from self._remove(context)
        except ClientError as failure:
            result = (
                f"{self._archive} may still be registered, because removing it failed too "
                f"({failure.args[0]}): see client.models()"
            )
        if result and isinstance(error, ClientError):
            hint = f"{error.hint}. {result}" if error.hint else result
            error.details = error.details._replace(hint=hint)

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
            yield from set_default(context, name, (yield from _fittest(context, name, others)))
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


def _fittest(context: CallContext, name: str, versions: list[str]) -> Flow[str]:
    """Choose the new default version: a ready one, if there is one."""
    for version in versions:
        if (yield from describe(context, name, version)).ready:
            return version
    return versions[0]


def _verify(context: CallContext, archive: str, name: str, version: str) -> Flow[None]:
    """Sends the packed sample as a prediction; raises NotReady where its answer is not the packed
    one."""
    from vestal.mar.sample import matches, value_of

    known = ErrorDetails(name, version, hint="Pack it again, or see the model's log for the reason")
    sample = yield from _sample(context, archive, known)
    if sample is None:
        return
    call = ApiCall(
        "inference",
        "POST",
        path("predictions", name, version),
        body=sample.input,
        headers={"Content-Type": sample.content_type},
        model=name,
        version=version,
        repeatable=False,  # a version that dies of its sample need not die twice
    )
    try:
        response: HTTPResponse = yield from send(context, call)
    except (ConnectionFailed, RequestRefused, ServerFailed) as error:
        details = error.details._replace(model=name, version=version, hint=known.hint)
        raise NotReady(
            f"{name} {version} does not answer its sample {sample.name}: {error.args[0]}", details
        ) from error
    value = value_of(response.body, response.headers.get("content-type", ""))
    difference = matches(sample.answer, value, sample.tolerance)
    if difference is not None:
        raise NotReady(
            f"{name} {version} answers its sample {sample.name} differently than when it was "
            f"packed: {difference}",
            known,
        )


def _sample(context: CallContext, archive: str, known: ErrorDetails) -> Flow[Sample | None]:
    """The sample in the archive, from the store or from the handler; None where it has none."""
    from vestal.errors import VestalError
    from vestal.mar.sample import Sample, parse_sample, read_sample

    def read() -> Sample | VestalError | None:
        store = model_store_of(context.addresses, context.tokens)
        try:
            return read_sample(store / archive) if store and (store / archive).is_file() else None
        except VestalError as error:
            return error

    found = yield BlockingIO(read, may_hang=False)
    if isinstance(found, VestalError):
        raise NotReady(str(found), known)
    if isinstance(found, Sample):
        return found
    assert known.model is not None
    text = yield from sample_text(context, known.model, known.version)
    try:
        return None if text is None else parse_sample(text)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise NotReady(
            f"the sample that {archive} was packed with is invalid: {error}", known
        ) from None
