"""One prediction, one explanation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from vestal.client.answers import Answer, answer
from vestal.client.calls import Call, path
from vestal.client.context import Context
from vestal.client.encoding import Payload, encode, takes_long
from vestal.client.errors import InvalidInput
from vestal.client.retry import Attempts
from vestal.client.steps import Steps, Work
from vestal.client.tracing import trace_of


@dataclass(frozen=True)
class Asked:
    """What is asked of a model, but for the input."""

    kind: Literal["predictions", "explanations"]
    model: str
    version: str | None
    correlation_id: str | None
    traceparent: str | None


def infer(context: Context, asked: Asked, value: Any) -> Steps[Answer]:
    """Encodes the input once, whatever the number of attempts."""
    target = path(asked.kind, asked.model, asked.version)
    trace = trace_of(context.span, asked.traceparent, asked.correlation_id)
    try:
        payload: Payload = (
            (yield Work(lambda: encode(value))) if takes_long(value) else encode(value)
        )
    except InvalidInput as error:
        error.facts = replace(
            error.facts,
            model=asked.model,
            version=asked.version,
            correlation_id=trace.correlation_id,
        )
        raise
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
