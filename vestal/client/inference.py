"""One prediction."""

from __future__ import annotations

from typing import Any

from vestal.client.answers import Answer, answer
from vestal.client.calls import Call, path
from vestal.client.encoding import encode
from vestal.client.retry import Context
from vestal.client.steps import Steps


def predict(context: Context, model: str, value: Any, version: str | None) -> Steps[Answer]:
    """Encodes the input once, whatever the number of attempts."""
    target = path("predictions", model, version)
    payload = encode(value)
    call = Call(
        "inference",
        "POST",
        target,
        body=payload.body,
        headers={"Content-Type": payload.content_type},
        model=model,
        version=version,
    )
    reply, attempts = yield from context.send_counted(call)
    return answer(reply, model=model, latency=context.deadline.elapsed, attempts=attempts)
