"""Flows of the management API: list and describe versions, set the default, read metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from vestal.client.base import CallContext
from vestal.client.errors import NotFound, Overloaded, ServerFailed
from vestal.client.flow import ApiCall, Flow, HTTPResponse, management_call
from vestal.client.retry import send

if TYPE_CHECKING:  # a service that only predicts needs neither
    from vestal.client.descriptions import ModelDescription, ModelInfo

T = TypeVar("T")

SAMPLE_HEADER = "x-vestal-sample"
"""Requests the packed sample from a Vestal handler, from this position on."""
PAGE = 100  # models per page, as the server's default
CUSTOMIZED = {"customized": "true"}
"""Query for a description that includes the handler's own."""


def models(context: CallContext) -> Flow[list[ModelInfo]]:
    """List all versions of all models: models by name, versions in the server's order."""
    found: list[ModelInfo] = []
    for name in (yield from _names(context)):
        try:
            found += yield from model_versions(context, name)
        except NotFound:
            continue  # unregistered since it was listed
    return found


def _names(context: CallContext) -> Flow[list[str]]:
    names: list[str] = []
    query = {"limit": str(PAGE)}
    while True:
        call = ApiCall("management", "GET", "/models", query)
        page, following = _parsed(context, (yield from send(context, call)), _page)
        names += page
        if following is None:
            return names
        query = {**query, "next_page_token": following}


def _page(raw: Any) -> tuple[list[str], str | None]:
    return [model["modelName"] for model in raw["models"]], raw.get("nextPageToken")


def model_versions(context: CallContext, model: str) -> Flow[list[ModelInfo]]:
    """List the versions of a model; TorchServe's list of models has only default versions."""
    from vestal.client.descriptions import ModelInfo

    everything = yield from versions(context, model)
    default = everything[0].version
    if len(everything) > 1:
        default = (yield from describe(context, model, None)).version
    return [ModelInfo(d.name, d.version, d.version == default, d.archive) for d in everything]


def versions(context: CallContext, model: str) -> Flow[list[ModelDescription]]:
    """Describe every version of a model."""
    call = management_call("GET", model, "all")._replace(version=None)
    return _parsed(context, (yield from send(context, call)), _descriptions)


def describe(
    context: CallContext, model: str, version: str | None, *, customized: bool = False
) -> Flow[ModelDescription]:
    """Describe one version. `customized` includes its handler, which waits for a free worker."""
    call = management_call("GET", model, version, query=CUSTOMIZED if customized else {})
    return _parsed(context, (yield from send(context, call)), _descriptions)[0]


def probe(context: CallContext, model: str, version: str | None) -> Flow[tuple[bool, Any]]:
    """Return whether a worker responded, and its handler's description (None without one)."""
    try:
        description = yield from describe(context, model, version, customized=True)
    except Overloaded:
        return False, None  # no worker, or a full queue
    except ServerFailed as error:
        # 503: the handler raised an error, as one without a `describe` does: its worker is up.
        # "Worker died." and a missed responseTimeout have other statuses.
        return error.status == 503, None
    return True, description.customized


def sample_text(context: CallContext, model: str, version: str | None) -> Flow[str | None]:
    """Return the packed sample as JSON text; None if the handler has none.

    Raises ServerFailed if the handler sends something else.
    """
    text, length = "", 1
    while len(text) < length:
        headers = {SAMPLE_HEADER: str(len(text))}
        call = management_call("GET", model, version, query=CUSTOMIZED, headers=headers)
        try:
            response = yield from send(context, call)
        except ServerFailed as error:
            if error.status == 503 and not isinstance(error, Overloaded):
                return None  # a handler that does not describe itself
            raise
        customized = _parsed(context, response, _descriptions)[0].customized
        if not isinstance(customized, dict) or customized.get("sample") is None:
            return None
        piece, length = _piece(customized["sample"])
        if not piece:
            raise ServerFailed(f"{model} {version} sent an incomplete sample")
        text += piece
    return text


def _piece(sample: Any) -> tuple[str, int]:
    try:
        text, length = sample["text"], sample["length"]
    except (KeyError, TypeError):
        text = length = None
    if not isinstance(text, str) or not isinstance(length, int):
        raise ServerFailed("the handler sent a sample that cannot be read")
    return text, length


def set_default(context: CallContext, model: str, version: str) -> Flow[None]:
    """Make a version the default version of its model."""
    yield from send(context, management_call("PUT", model, version, "set-default"))


def metrics(context: CallContext) -> Flow[str]:
    """Return the Prometheus page."""
    response = yield from send(context, ApiCall("metrics", "GET", "/metrics"))
    return response.body.decode("utf-8", "replace")


def _descriptions(raw: Any) -> list[ModelDescription]:
    from vestal.client.descriptions import ModelDescription

    if not raw:
        raise ValueError("no version")
    return [ModelDescription.parse(each) for each in raw]


def _parsed(context: CallContext, response: HTTPResponse, parse: Callable[[Any], T]) -> T:
    try:
        return parse(response.json())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        place = context.place(context.addresses.of("management"))
        raise ServerFailed(
            f"{place} did not respond as TorchServe's management API does",
            status=response.status,
            hint="Is it the management address (usually port 8081)?",
        ) from error
