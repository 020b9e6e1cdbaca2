"""The errors of the client.

VestalError
 └─ ClientError           base of every error of a call
     ├─ InvalidInput      the input cannot be sent (a ValueError); no request was sent
     ├─ UnknownMetric     the metrics page has no such metric, or the metric no such label
     ├─ InvalidAddress    an address that is not http://host:port (a ValueError)
     ├─ NoAddress         the call needs an address that this client does not have
     ├─ ConnectionFailed  no server at the address, or the connection broke (a ConnectionError)
     ├─ DeadlineExceeded  no result within the call's timeout (a TimeoutError)
     ├─ TokenError        the token is missing, unreadable or refused
     │   └─ TokenExpired  the token was valid before, and this client cannot renew it
     ├─ RequestRefused    4xx (and 3xx): the handler or the server refused this request
     │   ├─ NotFound      404: no such model, version or archive
     │   ├─ Conflict      409, 403: the server's state does not allow it
     │   └─ TooLarge      413: the body or its content is too large
     ├─ ServerFailed      5xx: the handler or the server failed
     │   ├─ Overloaded    503 ServiceUnavailable, 429: the queue is full, or no worker is READY
     │   └─ WorkerDied    the worker died twice: this input may be the cause
     └─ NotReady          the version does not load, or fails its packed sample
"""

from __future__ import annotations

from vestal.errors import UsageError, VestalError


class ClientError(VestalError):
    """A call failed. Every attribute is None if unknown.

    `model`, `version`: of the call; version None: the default version.
    `status`: HTTP status, None without a response.
    `server_type`, `server_message`: `type` and `message` of the error body.
    `request_id`: TorchServe's id, also in its logs. `correlation_id`: as the client sent it.
    `attempts`: number of attempts to send the request. `retry_after`: seconds of the server's
    Retry-After. `hint`: what to do; by default the class's `usual_hint`.
    """

    usual_hint: str | None = None

    def __init__(
        self,
        message: str,
        *,
        model: str | None = None,
        version: str | None = None,
        status: int | None = None,
        server_type: str | None = None,
        server_message: str | None = None,
        request_id: str | None = None,
        correlation_id: str | None = None,
        attempts: int = 0,
        retry_after: float | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.model, self.version = model, version
        self.status, self.server_type, self.server_message = status, server_type, server_message
        self.request_id, self.correlation_id = request_id, correlation_id
        self.attempts, self.retry_after = attempts, retry_after
        self.hint = hint or self.usual_hint

    def __str__(self) -> str:
        message = str(self.args[0])
        end = "" if message.endswith("?") else "."
        return f"{message}{end} {self.hint}" if self.hint else message


class InvalidInput(ClientError, UsageError, ValueError):
    """The input cannot be sent: a missing file, a type without an encoding, NaN in JSON."""

    usual_hint = "docs/guides/call.md lists the inputs that can be sent"


class InvalidAddress(ClientError, UsageError, ValueError):
    """An address is not the URL of a server, or its proxy or CA bundle cannot be used."""


class UnknownMetric(ClientError, UsageError, LookupError):
    """The server's metrics page has no metric of that name, or the metric has no such label."""

    usual_hint = "client.metrics_text() shows the page"


class NoAddress(ClientError, UsageError):
    """The call needs an address (management, metrics) that this client does not have."""


class ConnectionFailed(ClientError, ConnectionError):
    """There is no server, or the connection broke and the request could not be sent again."""

    usual_hint = "Is a server running at that address?"


class DeadlineExceeded(ClientError, TimeoutError):
    """No result within the timeout; `__cause__` is the last failure, if any."""

    usual_hint = "Pass a longer timeout="


class TokenError(ClientError):
    """A token is missing, unreadable or refused; the message names its source."""

    usual_hint = "Pass token= or key_file=, or set VESTAL_TOKEN"


class TokenExpired(TokenError):
    """The server refused a token that was valid before, or has expired by its key file."""


class RequestRefused(ClientError):
    """The handler or the server refused this request (4xx); retrying will not help."""

    usual_hint = "Fix the request; retrying will not help"


class NotFound(RequestRefused):
    """404: no such model, version or archive."""

    usual_hint = "client.models() lists the served versions"


class Conflict(RequestRefused):
    """409, or 403 for the default version: the server's state does not allow it."""

    usual_hint = "client.models() lists the served versions and which one is the default"


class TooLarge(RequestRefused):
    """413: more bytes, pixels, tokens or rows than the server or the handler accepts."""

    usual_hint = "Send a smaller input: a smaller image, fewer tokens or rows"


class ServerFailed(ClientError):
    """The handler or the server failed (5xx)."""

    usual_hint = "Search the server's log for the request id"


class Overloaded(ServerFailed):
    """The queue is full, or the version has no worker."""

    usual_hint = (
        "Send fewer requests at a time; client.describe(model) shows the queue and the workers"
    )


class WorkerDied(ServerFailed):
    """The worker died while it processed this request, and again after one retry."""


class NotReady(ClientError):
    """A version does not load, or its prediction for its packed sample has changed."""
