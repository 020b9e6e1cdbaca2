"""Classify responses: successful, worth a retry, or final."""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any

from vestal.client.flow import HTTPResponse


class Verdict(Enum):
    """How the client treats a response."""

    SUCCESS = auto()
    RETRY = auto()
    """The server has not processed the request: retry until the deadline."""
    RETRY_ONCE = auto()
    """The worker died, and this input may be the cause: retry once."""
    NOT_FOUND = auto()
    """TorchServe does not have the model, or not yet."""
    TOKEN = auto()
    """The server refused the token."""
    FINAL = auto()


def classify(response: HTTPResponse) -> Verdict:
    """Classify a response; only those that no handler sent are worth a retry."""
    if response.status < 300:
        return Verdict.SUCCESS
    kind, message, _ = error_body(response)
    if kind == "InvalidKeyException":
        return Verdict.TOKEN
    if from_handler(response):
        return Verdict.FINAL
    if response.status == 404 and kind.endswith("NotFoundException"):
        return Verdict.NOT_FOUND
    if kind == "IllegalStateException" and message == "Deque full":
        # TorchServe puts a request to scale a version into its queue.
        return Verdict.RETRY
    if response.status in (500, 507) and message.strip() == "Worker died.":
        return Verdict.RETRY_ONCE
    if response.status == 503:
        # The type is InternalServerException if the handler raised an error.
        return Verdict.RETRY if kind in ("", "ServiceUnavailableException") else Verdict.FINAL
    return Verdict.RETRY if response.status in (429, 502, 504) else Verdict.FINAL


def is_queue_full_or_without_workers(response: HTTPResponse) -> bool:
    """Whether it is TorchServe's 503 for a full queue, which is the same for no workers."""
    kind, _, _ = error_body(response)
    is_busy = response.status == 503 and kind == "ServiceUnavailableException"
    return is_busy and "retry-after" not in response.headers


def from_handler(response: HTTPResponse) -> bool:
    """Whether a Vestal handler sent it, which names its model, and in errors the request."""
    body = response.json()
    return "x-model-name" in response.headers or (isinstance(body, dict) and "request_id" in body)


def error_body(response: HTTPResponse) -> tuple[str, str, str | None]:
    """Return `type`, `message` and request id; the message of any other body is its text."""
    request_id = response.headers.get("x-request-id")
    body: Any = response.json()
    if isinstance(body, dict):
        kind, message = body.get("type"), body.get("message")
        if isinstance(message, str):
            return kind if isinstance(kind, str) else "", message, request_id
    text = response.body[:500].decode("utf-8", "replace").strip()
    return "", " ".join(text.split()) or response.reason or "no message", request_id


def retry_after(response: HTTPResponse) -> float | None:
    """Return the seconds of Retry-After; a date is compared with the server's own clock."""
    header = response.headers.get("retry-after", "")
    try:
        seconds = float(header)
    except ValueError:
        try:
            now = parsedate_to_datetime(response.headers["date"])
            seconds = (parsedate_to_datetime(header) - now).total_seconds()
        except (KeyError, OverflowError, TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
