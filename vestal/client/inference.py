"""The flow of one prediction or explanation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vestal.client.arrays import type_name
from vestal.client.base import CallContext
from vestal.client.encoding import Payload, encode, looks_like_path, may_hang, takes_long
from vestal.client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    RequestRefused,
    ServerFailed,
)
from vestal.client.failures import name_prefix
from vestal.client.flow import TOO_LATE, ApiCall, BlockingIO, Flow, path
from vestal.client.retry import Attempts
from vestal.client.tracing import make_trace

if TYPE_CHECKING:
    from vestal.client.prediction import Prediction

_FOLDERS = {"predict": "predictions", "explain": "explanations"}
SHOWN = 100  # most characters of an input in a hint


class InferenceCall(NamedTuple):
    """The arguments of a prediction or explanation, except the input."""

    operation: Literal["predict", "explain"]
    model: str
    version: str | None
    correlation_id: str | None
    traceparent: str | None


def infer(context: CallContext, call: InferenceCall, value: Any) -> Flow[Prediction]:
    """Encode the input once, send it, and return the prediction."""
    from vestal.client.prediction import Prediction  # imports dataclasses, which takes 8 ms

    target = path(_FOLDERS[call.operation], call.model, call.version)
    trace = make_trace(context.span, call.traceparent, call.correlation_id)
    if takes_long(value):
        payload = yield BlockingIO(lambda: _encode(value), may_hang(value))
    else:
        payload = _encode(value)
    if payload is TOO_LATE:
        payload = _too_late(context)
    if isinstance(payload, ClientError):
        payload.correlation_id = trace.correlation_id
        raise payload
    request = ApiCall(
        "inference",
        "POST",
        target,
        body=payload.body,
        headers={"Content-Type": payload.content_type, **trace.headers()},
        model=call.model,
        version=call.version,
    )
    try:
        response, attempts = yield from Attempts(request, context).run()
    except ClientError as error:
        if is_refusal(error) and looks_like_path(value):
            error.hint = _path_hint(value)
        raise
    context.span.event("answered", attempts=attempts, status=response.status)
    latency = context.deadline.elapsed
    return Prediction.from_reply(
        response, model=call.model, latency=latency, attempts=attempts, trace=trace
    )


def is_refusal(error: ClientError) -> bool:
    """Return whether the handler could not use the input: it refused it, or raised an error."""
    if isinstance(error, RequestRefused):
        return error.status in (400, 415, 422)
    return isinstance(error, ServerFailed) and "Prediction failed" in (error.server_message or "")


def _path_hint(text: str) -> str:
    shown = text.strip() if len(text) <= SHOWN else f"{text.strip()[:SHOWN]}..."
    return f"The input was sent as text. To send a file, pass pathlib.Path({shown!r})"


def _encode(value: Any) -> Payload | InvalidInput:
    try:
        return encode(value)
    except InvalidInput as error:
        return error
    except Exception as error:  # the methods of an input can raise any error
        invalid = InvalidInput(
            f"an input of type {type_name(value)} cannot be encoded ({type_name(error)}: {error})"
        )
        invalid.__cause__ = error
        return invalid


def _too_late(context: CallContext) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{name_prefix(context.model, context.version)}the input could not be read within "
        f"{context.deadline.seconds:g} s",
        hint="Check that its source ends, or pass a longer timeout=",
    )
