"""What an answer that is none means: is it worth a retry, and which error is it?"""

from __future__ import annotations

import math
import re
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any

from vestal.client.errors import (
    ClientError,
    Conflict,
    Facts,
    NotFound,
    Overloaded,
    RequestRefused,
    ServerFailed,
    TooLarge,
)
from vestal.client.steps import Reply

_REGISTERED = re.compile(r"version (\S+) is already registered for model (\S+?)\.?$")


class Verdict(Enum):
    """What to do with a reply."""

    ANSWER = auto()
    RETRY = auto()
    """Nothing was done: sent again until the deadline."""
    RETRY_ONCE = auto()
    """The worker died, perhaps of this very input: sent once more."""
    NOT_FOUND = auto()
    """TorchServe knows no such model, or not yet."""
    TOKEN = auto()
    """The token was refused."""
    FINAL = auto()


def judge(reply: Reply) -> Verdict:
    """Only what the server says before or instead of a handler's answer is worth a retry."""
    if reply.status < 300:
        return Verdict.ANSWER
    kind, message, _ = error_body(reply)
    if kind == "InvalidKeyException":
        return Verdict.TOKEN
    if from_handler(reply):
        return Verdict.FINAL
    if reply.status == 404 and kind.endswith("NotFoundException"):
        return Verdict.NOT_FOUND
    if kind == "IllegalStateException" and message == "Deque full":
        return Verdict.RETRY  # scaling a version whose queue is full: TorchServe could not tell it
    if reply.status in (500, 507) and message.strip() == "Worker died.":
        return Verdict.RETRY_ONCE
    if reply.status == 503:
        # TorchServe says 503 InternalServerException, "Prediction failed", when the handler raised.
        return Verdict.RETRY if kind in ("", "ServiceUnavailableException") else Verdict.FINAL
    return Verdict.RETRY if reply.status in (429, 502, 504) else Verdict.FINAL


def full_or_idle(reply: Reply) -> bool:
    """TorchServe's 503 for a full queue; its text is the same for a version without workers."""
    kind, _, _ = error_body(reply)
    return (
        reply.status == 503
        and kind == "ServiceUnavailableException"
        and "retry-after" not in reply.headers
    )


def from_handler(reply: Reply) -> bool:
    """Our handlers name their model in a header and the request in an error's body."""
    body = reply.json()
    return "x-model-name" in reply.headers or (isinstance(body, dict) and "request_id" in body)


def error_body(reply: Reply) -> tuple[str, str, str | None]:
    """`type`, `message` and request id; a foreign body's text is its message."""
    request_id = reply.headers.get("x-request-id")
    body: Any = reply.json()
    if isinstance(body, dict):
        kind, message = body.get("type"), body.get("message")
        if isinstance(message, str):
            return kind if isinstance(kind, str) else "", message, request_id
    text = reply.body[:500].decode("utf-8", "replace").strip()
    return "", " ".join(text.split()) or reply.reason or "no message", request_id


def retry_after(reply: Reply) -> float | None:
    """Seconds that the server asks to wait; a date is read by the server's own clock."""
    asked = reply.headers.get("retry-after")
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        try:
            now = parsedate_to_datetime(reply.headers["date"])
            seconds = (parsedate_to_datetime(asked) - now).total_seconds()
        except (KeyError, OverflowError, TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def failure(reply: Reply, *, url: str, known: Facts) -> ClientError:
    """The error that a final reply becomes; `known`: what the call knows of itself."""
    kind, message, request_id = error_body(reply)
    facts = known._replace(
        status=reply.status,
        server_type=kind or None,
        server_message=message,
        request_id=request_id,
        retry_after=retry_after(reply),
        hint=_hint(reply.status, kind, message),
    )
    tries = "1 attempt" if known.attempts == 1 else f"{known.attempts} attempts"
    text = (
        f"{named(known.model, known.version)}{url} answered {reply.status}"
        f"{f' {kind}' if kind else ''}: {message.rstrip('.')} "
        f"(request {request_id or 'without id'}, {tries})"
    )
    return _kind(reply, kind)(text, facts)


def named(model: str | None, version: str | None) -> str:
    """`mnist 1.0: `, the beginning of an error's text."""
    return f"{model}{f' {version}' if version else ''}: " if model else ""


def _kind(reply: Reply, kind: str) -> type[ClientError]:
    status = reply.status
    if status == 429 or (status == 503 and kind in ("", "ServiceUnavailableException")):
        return Overloaded
    if status >= 500:
        return ServerFailed
    if kind == "InvalidModelVersionException":
        return Conflict  # with 403, which a proxy says for other reasons
    by_status = {404: NotFound, 409: Conflict, 413: TooLarge}
    return by_status.get(status, RequestRefused)


def _hint(status: int, kind: str, message: str) -> str | None:
    if status < 400:
        return "A redirect is not followed, since the token would go with it: give that address"
    if message.startswith("Model not found at"):
        return "The archive must be a file in the server's model store"
    if kind.startswith("Model") and kind.endswith("NotFoundException"):
        return "client.models() says what is served"
    if kind == "ResourceNotFoundException":
        return (
            "No such path at this port: inference is usually at 8080, management at 8081, metrics "
            "at 8082"
        )
    if "Cannot remove default version" in message:
        return "Make another version the default first: client.set_default(model, version)"
    if status == 409 and (there := _REGISTERED.search(message)):
        version, model = there.groups()
        return (
            f'client.wait_ready("{model}", "{version}") waits until it is ready; to replace it, '
            "unregister it first or pack a new version"
        )
    if status == 405:
        return "TorchServe's model API may be off: it needs enable_model_api=true"
    if status == 413 and not kind:
        return (
            "The server takes at most max_request_size bytes: 20 MB with Vestal's "
            "config.properties, 6.5 MB in a TorchServe without it"
        )
    if kind == "ServiceUnavailableException":
        return (
            "Its queue is full or it has no worker (client.describe(model) shows both); "
            "client.scale(model, 1) starts a worker"
        )
    if status == 422:
        return "It is not of the form that this model takes: see its handler's transforms"
    if status in (502, 504):
        return "A proxy says so: is the server behind it up, and quick enough for the proxy?"
    if "Prediction failed" in message:
        return "The handler raised; with a batch, a neighbour's input may be why: see its log"
    return None
