"""The keeper's HTTP API: what `vestal apply`, `vestal status` and the other commands call.

`/live`, `/ready` and `/metrics` need no token. All other paths need `Authorization: Bearer TOKEN`.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from vestal import __version__
from vestal.errors import UsageError, VestalError
from vestal.fleet.access import Access
from vestal.fleet.canary.routes import add_canaries
from vestal.fleet.changes import summarize
from vestal.fleet.control import KeeperControl
from vestal.fleet.desired import Desired
from vestal.fleet.event_stream import EventStream
from vestal.fleet.status import Event, PlanReport, Revision, RevisionSummary, Source, Status

MAX_STREAM_SECONDS = 3600.0
_REASONS = 5
"""Reasons in the message for an invalid body."""


class ErrorBody(BaseModel):
    """The body of every response with a status of 400 or more."""

    code: int
    type: str
    message: str


class Readiness(BaseModel):
    """Whether every required version is ready and verified; `reasons`: why not."""

    ready: bool
    reasons: list[str] = Field(default_factory=list)


class DesiredState(BaseModel):
    """The desired state, and the number of the revision that it belongs to."""

    revision: int
    desired: Desired


class Change(BaseModel):
    """A new desired state.

    `base`: the revision that it was made from. The change is refused with 409 if there is a newer
    one, so that two commands at the same time do not undo each other's work.
    """

    desired: Desired
    source: Source
    base: int | None = None


class RollbackRequest(BaseModel):
    """`model`: the model to roll back; None for the whole previous revision."""

    model: str | None = None
    source: Source


class Accepted(BaseModel):
    """The request was accepted; the server works on it in the background."""

    accepted: bool = True


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request is invalid or not authorized."},
    "5XX": {"model": ErrorBody, "description": "The server could not carry it out."},
}


def create_app(
    control: KeeperControl,
    token: str,
    *,
    host: str = "127.0.0.1",
    stopping: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """Create the application.

    Args:
        token: bearer token of all paths except `/live`, `/ready` and `/metrics`.
        host: address on which the API listens; it is accepted in the Host header.
        stopping: whether event streams must end now.
    """
    app = FastAPI(
        title="Vestal keeper",
        version=__version__,
        description=__doc__,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(Access, token=token, host=host)
    _add_probes(app, control)
    _add_reading(app, control, EventStream(control, stopping))
    one_change = threading.Lock()
    _add_changing(app, control, one_change)
    add_canaries(app, control, one_change, dependencies=_AUTHORIZED, responses=ERRORS)
    _add_error_handlers(app)
    return app


def _add_probes(app: FastAPI, control: KeeperControl) -> None:
    @app.get("/live", tags=["probes"])
    def live() -> Accepted:
        """Whether the process responds."""
        return Accepted()

    @app.get("/ready", tags=["probes"], responses={503: {"model": Readiness}})
    def ready(response: Response) -> Readiness:
        """Whether every required version is ready; 503 with the reasons if not."""
        is_ready, reasons = control.ready()
        response.status_code = 200 if is_ready else 503
        return Readiness(ready=is_ready, reasons=reasons)

    @app.get("/metrics", tags=["probes"], response_class=PlainTextResponse)
    def metrics() -> str:
        """The keeper's metrics in Prometheus' text format."""
        return control.metrics()


# The token is checked by Access; this documents it.
_AUTHORIZED = [Depends(HTTPBearer(auto_error=False))]


def _add_reading(app: FastAPI, control: KeeperControl, stream: EventStream) -> None:
    @app.get("/v1/status", dependencies=_AUTHORIZED, responses=ERRORS)
    def status() -> Status:
        """The state of all models and versions."""
        return control.status()

    @app.get("/v1/desired", dependencies=_AUTHORIZED, responses=ERRORS)
    def desired() -> DesiredState:
        """What should run."""
        while True:
            before, state = control.status().revision, control.desired()
            if control.status().revision == before:
                return DesiredState(revision=before, desired=state)

    @app.post("/v1/plan", dependencies=_AUTHORIZED, responses=ERRORS)
    def plan(desired: Desired) -> PlanReport:
        """The steps to a desired state. Nothing is changed."""
        return control.plan(desired)

    @app.get("/v1/revisions", dependencies=_AUTHORIZED, responses=ERRORS)
    def revisions() -> list[RevisionSummary]:
        """The history of the desired state, newest first."""
        return summarize(control.revisions())

    @app.get("/v1/revisions/{number}", dependencies=_AUTHORIZED, responses=ERRORS)
    def revision(number: int) -> Revision:
        """One revision with its desired state."""
        for each in control.revisions():
            if each.number == number:
                return each
        raise HTTPException(404, f"there is no revision {number} in the history")

    @app.get(
        "/v1/events",
        dependencies=_AUTHORIZED,
        response_class=StreamingResponse,
        responses={
            **ERRORS,
            200: {
                "model": Event,
                "description": "One JSON object per line, as it happens. Empty lines in between "
                "show that the connection is alive.",
            },
        },
    )
    async def events(
        after: Annotated[int, Query(ge=0, description="Number of the last known event.")] = 0,
        timeout: Annotated[
            float, Query(ge=0, le=MAX_STREAM_SECONDS, description="Length of the stream, seconds.")
        ] = 30.0,
    ) -> StreamingResponse:
        """The keeper's events after a number, until the time limit."""
        if not stream.is_free():
            raise HTTPException(503, f"{stream.limit} event streams are open; close some of them")
        return StreamingResponse(stream.lines(after, timeout), media_type="application/x-ndjson")


def _add_changing(app: FastAPI, control: KeeperControl, one_change: threading.Lock) -> None:
    @app.post("/v1/apply", dependencies=_AUTHORIZED, responses=ERRORS)
    def apply(change: Change) -> RevisionSummary:
        """Change what is desired. The keeper works on it in the background."""
        with one_change:
            newest = control.status().revision
            if change.base is not None and change.base != newest:
                message = f"revision {newest} was applied after revision {change.base} was read"
                raise HTTPException(409, f"{message}; read /v1/desired again")
            before = control.desired()
            return _summary(control.apply(change.desired, change.source), before)

    @app.post("/v1/rollback", dependencies=_AUTHORIZED, responses=ERRORS)
    def rollback(request: RollbackRequest) -> RevisionSummary:
        """Desire the previous version of a model again, or the whole previous revision."""
        with one_change:
            before = control.desired()
            return _summary(control.rollback(request.model, request.source), before)

    @app.post("/v1/stop", status_code=202, dependencies=_AUTHORIZED, responses=ERRORS)
    def stop() -> Accepted:
        """Stop the server: not ready, drain, stop."""
        control.request_stop()
        return Accepted()


def _summary(made: Revision, before: Desired) -> RevisionSummary:
    return summarize([made, made.model_copy(update={"desired": before})])[0]


def _add_error_handlers(app: FastAPI) -> None:
    def add(
        kind: type[Exception], describe: Callable[[Any], tuple[int, str, str]]
    ) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def handle(_: Request, error: Exception) -> Response:
            code, name, message = describe(error)
            body = ErrorBody(code=code, type=name, message=message)
            return JSONResponse(body.model_dump(), code)

        app.add_exception_handler(kind, handle)
        return handle

    add(UsageError, lambda error: (400, "UsageError", str(error)))
    add(VestalError, lambda error: (503, type(error).__name__, str(error)))
    add(HTTPException, lambda error: (error.status_code, _type_of(error), str(error.detail)))
    add(RequestValidationError, lambda error: (422, "InvalidRequest", _explain(error)))
    # The traceback goes to the server's own output.
    add(Exception, lambda _: (500, "InternalError", "a bug in the keeper; see the server's output"))


def _type_of(error: HTTPException) -> str:
    names = {404: "NotFound", 405: "MethodNotAllowed", 409: "Conflict", 413: "BodyTooLarge"}
    return names.get(error.status_code, "InvalidRequest" if error.status_code < 500 else "Failed")


def _explain(error: RequestValidationError) -> str:
    found = [
        f"{'.'.join(map(str, each['loc']))}: {each['msg']:.200}"
        for each in error.errors()[: _REASONS + 1]
    ]
    more = ["..."] if len(found) > _REASONS else []
    return "; ".join([*found[:_REASONS], *more])
