"""The errors of the client.

VestalError
 └─ ClientError           every error of this tree; has the details listed below
     ├─ InvalidInput      the input cannot be sent (a ValueError); nothing left this process
     ├─ UnknownMetric     the metrics page has no such metric, or the metric no such label
     ├─ InvalidAddress    an address that is not http://host:port (a ValueError)
     ├─ NoAddress         the call needs an address that this client was not given
     ├─ ConnectionFailed  no server there, or it went away (a ConnectionError)
     ├─ DeadlineExceeded  the call's time is up (a TimeoutError)
     ├─ TokenError        no token, an unreadable one, or one that the server refused
     │   └─ TokenExpired  it was valid once, and this client cannot renew it
     ├─ RequestRefused    4xx (and 3xx): the handler or the server refused this request
     │   ├─ NotFound      404: no such model, version or archive
     │   ├─ Conflict      409, 403: not in this state (already registered, the default version)
     │   └─ TooLarge      413: the body, or what is in it
     ├─ ServerFailed      5xx: the handler or the server failed
     │   ├─ Overloaded    503 ServiceUnavailable, 429: queue full or no worker
     │   └─ WorkerDied    twice in a row: this input may be what kills it
     └─ NotReady          a version that does not load, or fails its packed sample

Each has a hint: of its case, else of its class (`usual_hint`).
"""

from __future__ import annotations

from typing import NamedTuple

from vestal.errors import UsageError, VestalError


class ErrorDetails(NamedTuple):
    """The details of a failed call; None if unknown."""

    model: str | None = None
    version: str | None = None
    status: int | None = None
    server_type: str | None = None
    server_message: str | None = None
    request_id: str | None = None
    correlation_id: str | None = None
    attempts: int = 0
    retry_after: float | None = None
    hint: str | None = None


class ClientError(VestalError):
    """A call failed.

    `model`, `version`: what was called (version None: the default one).
    `status`: the HTTP status, None without a response.
    `server_type`, `server_message`: `type` and `message` of the error body, as the handler or
    TorchServe wrote them. `request_id`: TorchServe's, also in its logs; `correlation_id`: the
    caller's, as it was sent.
    `attempts`: how often the request was sent or tried. `retry_after`: seconds of the server's
    Retry-After. `hint`: what to do; by default the class's `usual_hint`.
    """

    usual_hint: str | None = None

    def __init__(self, message: str, details: ErrorDetails | None = None) -> None:
        super().__init__(message)
        self.details = details or ErrorDetails()

    def __str__(self) -> str:
        message = str(self.args[0])
        end = "" if message.endswith("?") else "."
        return f"{message}{end} {self.hint}" if self.hint else message

    @property
    def model(self) -> str | None:
        return self.details.model

    @property
    def version(self) -> str | None:
        return self.details.version

    @property
    def status(self) -> int | None:
        return self.details.status

    @property
    def server_type(self) -> str | None:
        return self.details.server_type

    @property
    def server_message(self) -> str | None:
        return self.details.server_message

    @property
    def request_id(self) -> str | None:
        return self.details.request_id

    @property
    def correlation_id(self) -> str | None:
        return self.details.correlation_id

    @property
    def attempts(self) -> int:
        return self.details.attempts

    @property
    def retry_after(self) -> float | None:
        return self.details.retry_after

    @property
    def hint(self) -> str | None:
        return self.details.hint or self.usual_hint


class InvalidInput(ClientError, UsageError, ValueError):
    """The input cannot be sent: no such file, a type that has no encoding, NaN in JSON."""

    usual_hint = "docs/guides/call.md lists the inputs that can be sent"


class InvalidAddress(ClientError, UsageError, ValueError):
    """An address cannot be used: no URL of a server, or a proxy or CA bundle that is wrong."""


class UnknownMetric(ClientError, UsageError, LookupError):
    """The server's metrics page has no metric of that name, or the metric has no such label."""

    usual_hint = "client.metrics_text() shows the page"


class NoAddress(ClientError, UsageError):
    """The call goes to an address (management, metrics) that this client was not given."""


class ConnectionFailed(ClientError, ConnectionError):
    """There is no server, or the connection broke and the call could not be sent again."""

    usual_hint = "Is a server running at that address?"


class DeadlineExceeded(ClientError, TimeoutError):
    """The call's time is up; `__cause__` is the last failure, if any."""

    usual_hint = "Pass a longer timeout="


class TokenError(ClientError):
    """A token is missing, unreadable or refused; the text names where it came from."""

    usual_hint = "Pass token= or key_file=, or set VESTAL_TOKEN"


class TokenExpired(TokenError):
    """The server refused a token that was valid before, or that expired by its key file."""


class RequestRefused(ClientError):
    """The handler or the server refused this request (4xx); retrying will not help."""

    usual_hint = "Fix the request as described above; retrying will not help"


class NotFound(RequestRefused):
    """404: no such model, version or archive."""

    usual_hint = "client.models() lists the served versions"


class Conflict(RequestRefused):
    """409, or 403 for the default version: the server's state does not allow it."""

    usual_hint = "client.models() lists the served versions and which one is the default"


class TooLarge(RequestRefused):
    """413: more bytes, pixels, tokens or rows than the server or the handler takes."""

    usual_hint = "Send less of it: a smaller image, fewer tokens or rows"


class ServerFailed(ClientError):
    """The handler or the server failed (5xx)."""

    usual_hint = "See the request's id in the server's log"


class Overloaded(ServerFailed):
    """The queue is full, or the version has no worker."""

    usual_hint = "Send less at a time; client.describe(model) shows the queue and the workers"


class WorkerDied(ServerFailed):
    """The worker died with this request in work, and again when it was sent once more."""


class NotReady(ClientError):
    """A version does not load, or does not answer its packed sample as it was packed."""
