"""Verify a version: its prediction for a sample is the expected one.

The sample is the packed one by default. It is read from the archive if this client can read the
server's model store, else requested from the handler. For an archive without one (not packed by
Vestal) it is sufficient that a worker responds to this request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vestal.client.base import CallContext
from vestal.client.errors import NotReady, Overloaded, RequestRefused, ServerFailed
from vestal.client.flow import ApiCall, BlockingIO, Flow, HTTPResponse, path
from vestal.client.management import describe, sample_text
from vestal.client.retry import send
from vestal.client.settings import model_store_of

if TYPE_CHECKING:
    from vestal.mar.sample import Sample

_HINT = "Pack it again, or see the model's log for the reason"


def verify(
    context: CallContext, model: str, version: str | None, *, sample: Sample | None = None
) -> Flow[None]:
    """Send a sample, by default the packed one; raises NotReady unless the prediction is as
    expected."""
    description = yield from describe(context, model, version)
    details = {"model": description.name, "version": description.version, "hint": _HINT}
    if sample is None:
        sample = yield from _packed_sample(context, description.archive, details)
    if sample is not None:  # otherwise, a worker has responded without one
        yield from _compare(context, sample, details)


def _compare(context: CallContext, sample: Sample, details: dict[str, Any]) -> Flow[None]:
    from vestal.mar.sample import value_of

    name, version = details["model"], details["version"]
    call = ApiCall(
        "inference",
        "POST",
        path("predictions", name, version),
        body=sample.input,
        headers={"Content-Type": sample.content_type},
        model=name,
        version=version,
        repeatable=False,  # a sample that kills a worker would kill the next one too
    )
    try:
        response: HTTPResponse = yield from send(context, call)
    except Overloaded:
        raise  # other callers fill the queue
    except (RequestRefused, ServerFailed) as error:  # a broken connection says nothing of a version
        text = f"{name} {version} fails its sample {sample.name}: {error.args[0]}"
        failure = NotReady(text, **details)
        failure.status, failure.request_id = error.status, error.request_id
        failure.server_type, failure.server_message = error.server_type, error.server_message
        raise failure from error
    difference = sample.difference(
        value_of(response.body, response.headers.get("content-type", ""))
    )
    if difference is not None:
        raise NotReady(
            f"{name} {version} predicts its sample {sample.name} differently than {sample.expected}"
            f": {difference}",
            **details,
        )


def _packed_sample(
    context: CallContext, archive: str, details: dict[str, Any]
) -> Flow[Sample | None]:
    """Return the archive's sample, from the store or from the handler; None without one."""
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
        raise NotReady(str(found), **details)
    if isinstance(found, Sample):
        return found
    text = yield from sample_text(context, details["model"], details["version"])
    try:
        return None if text is None else parse_sample(text)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise NotReady(
            f"the sample that {archive} was packed with is invalid: {error}", **details
        ) from None
