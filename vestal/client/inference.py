"""One prediction, one explanation."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from vestal.client.answers import Answer, answer
from vestal.client.arrays import type_name
from vestal.client.context import Context
from vestal.client.encoding import Payload, encode, may_hang, takes_long
from vestal.client.errors import ClientError, DeadlineExceeded, Facts, InvalidInput
from vestal.client.retry import Attempts
from vestal.client.steps import TOO_LATE, Call, Steps, Work, path
from vestal.client.tracing import trace_of
from vestal.client.verdicts import named

Operation = Literal["predict", "explain"]

_FOLDERS = {"predict": "predictions", "explain": "explanations"}


class Asked(NamedTuple):
    """What is asked of a model, but for the input."""

    operation: Operation
    model: str
    version: str | None
    correlation_id: str | None
    traceparent: str | None


def infer(context: Context, asked: Asked, value: Any) -> Steps[Answer]:
    """Encodes the input once, whatever the number of attempts."""
    target = path(_FOLDERS[asked.operation], asked.model, asked.version)
    trace = trace_of(context.span, asked.traceparent, asked.correlation_id)
    if takes_long(value):
        payload = yield Work(lambda: _encoded(value), may_hang(value))
    else:
        payload = _encoded(value)
    if payload is TOO_LATE:
        payload = _too_late(context)
    if isinstance(payload, ClientError):
        payload.facts = payload.facts._replace(correlation_id=trace.correlation_id)
        raise payload
    call = Call(
        "inference",
        "POST",
        target,
        body=payload.body,
        headers={"Content-Type": payload.content_type, **trace.headers()},
        model=asked.model,
        version=asked.version,
    )
    reply, attempts = yield from Attempts(call, context).run()
    context.span.event("answered", attempts=attempts, status=reply.status)
    return answer(
        reply,
        model=asked.model,
        latency=context.deadline.elapsed,
        attempts=attempts,
        trace=trace,
    )


def _encoded(value: Any) -> Payload | InvalidInput:
    try:
        return encode(value)
    except InvalidInput as error:
        return error
    except Exception as error:  # an input's own methods can raise anything
        invalid = InvalidInput(
            f"an input of type {type_name(value)} cannot be encoded ({type_name(error)}: {error})"
        )
        invalid.__cause__ = error
        return invalid


def _too_late(context: Context) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{named(context.model, context.version)}the input was not there within "
        f"{context.deadline.seconds:g} s (reading the input)",
        Facts(hint="Does what it reads from come to an end? timeout= gives more time"),
    )
