"""The steps of a call, which perform no I/O.

A flow is a generator of steps. A transport runs it:

    flow yields      HTTPRequest                        Pause    BlockingIO
    transport sends  HTTPResponse or TransportFailure   None     the function's result

Retries, tokens, readiness and draining are flows, so the blocking and the asynchronous client
share them.
"""

from __future__ import annotations

import errno
import json
import socket
import ssl
from collections.abc import Callable, Generator, Mapping
from threading import Thread
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote

from vestal.client.tokens import Api
from vestal.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vestal.client.hedging import HedgingPolicy

T = TypeVar("T")

WAITING = "waiting for the answer"
"""The phase after the request was sent, in which the server may have lost it."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


class ApiCall(NamedTuple):
    """A request without its address and token.

    `repeatable`: it may be sent again although the server may have acted on it.
    """

    api: Api
    method: str
    path: str
    query: Mapping[str, str] = _NOTHING
    body: bytes = b""
    headers: Mapping[str, str] = _NOTHING
    model: str | None = None
    version: str | None = None
    repeatable: bool = True

    def __repr__(self) -> str:
        return f"<{self.method} {self.path}, {len(self.body)} bytes>"


def path(*parts: str | None) -> str:
    """Return `/models/mnist/1.0` from its parts, quoted; skip parts that are None."""
    for part in parts:
        if part in ("", ".", "..") or not isinstance(part, (str, type(None))):
            raise UsageError(
                f"{part!r} is not a name of a model or version: expected a str, not '', '.' or '..'"
            )
    return "".join("/" + quote(part, safe="") for part in parts if part is not None)


def management_call(
    method: str,
    model: str,
    version: str | None,
    *more: str,
    query: Mapping[str, str] = _NOTHING,
    headers: Mapping[str, str] = _NOTHING,
    repeatable: bool = True,
) -> ApiCall:
    """Return a call of `/models/MODEL/VERSION` of the management API."""
    return ApiCall(
        "management",
        method,
        path("models", model, version, *more),
        query,
        headers=headers,
        model=model,
        version=version,
        repeatable=repeatable,
    )


class HTTPRequest(NamedTuple):
    """One request to send. Its headers hold the token, so they are not in the repr.

    `base`: one of the client's addresses; `target`: path and query, such as `/ping`.
    `limit`: time limit in seconds, if that is less than what the call has left.
    `hedging`: decides when second copies are sent, and which outcome counts.
    """

    method: str
    base: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    limit: float | None = None
    hedging: HedgingPolicy | None = None

    @property
    def url(self) -> str:
        return self.base + self.target

    def __repr__(self) -> str:
        return f"<{self.method} {self.url}, {len(self.body)} bytes>"


class Pause(NamedTuple):
    """Wait `seconds`, or until another call completes `future`, or until the deadline."""

    seconds: float
    future: Future[None] | None = None


class BlockingIO(NamedTuple):
    """A function that would block an event loop: read a file, compress an image.

    `may_hang`: it may read from a pipe or a socket without an end. If the deadline passes first,
    the result is `TOO_LATE`.
    """

    do: Callable[[], Any]
    may_hang: bool

    def start(self) -> Future[Any]:
        """Start it in a daemon thread."""
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # it cannot be cancelled any more

        def run() -> None:
            try:
                future.set_result(self.do())
            except BaseException as error:
                future.set_exception(error)

        Thread(target=run, name="vestal-work", daemon=True).start()
        return future


TOO_LATE = object()


class HTTPResponse(NamedTuple):
    """A whole response. The names of `headers` are in lower case.

    `sent`: monotonic time at which its request was sent.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    sent: float = 0.0

    def __repr__(self) -> str:
        return f"<{self.status} {self.reason}, {len(self.body)} bytes>"

    def without(self, token: str | None) -> HTTPResponse:
        """Replace a token of at least 6 characters by ***; TorchServe's have 8 letters."""
        if token is None or len(token) < 6:
            return self
        return self._replace(
            reason=self.reason.replace(token, "***"), body=self.body.replace(token.encode(), b"***")
        )

    def json(self) -> Any:
        """Return the parsed body, None if it is not JSON."""
        try:
            return json.loads(self.body)
        except (RecursionError, ValueError):
            return None


_OWN_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class TransportFailure(NamedTuple):
    """No whole response was received.

    `phase`: where it failed ("connecting", "sending the request", ...).
    `sent`: the whole request was sent.
    `final`: retrying cannot help (an unknown host name, an untrusted certificate).
    """

    phase: str
    error: BaseException
    sent: bool
    final: bool = False

    @property
    def refused(self) -> bool:
        """Whether no connection was made, for a reason outside this process."""
        error = self.error
        own = isinstance(error, OSError) and error.errno in _OWN_LIMITS
        return self.phase == "connecting" and not isinstance(error, TimeoutError) and not own


def transport_failure(phase: str, error: BaseException, sent: bool) -> TransportFailure:
    """Convert an error of urllib3, requests or httpx."""
    root = root_of(error)
    unresolved = isinstance(root, socket.gaierror) and root.errno != socket.EAI_AGAIN
    # A TLS server that is killed closes its connections without an alert.
    closed = isinstance(root, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    untrusted = isinstance(root, ssl.SSLError) and not closed
    # Python's own errors for a Content-Length of 10**18 or of less than 0.
    invalid = isinstance(root, (MemoryError, OverflowError, ValueError)) and root is error
    return TransportFailure(phase, root, sent, final=unresolved or untrusted or invalid)


Outcome = HTTPResponse | TransportFailure

Step = HTTPRequest | Pause | BlockingIO
Flow = Generator[Step, Any, T]


def root_of(error: BaseException) -> BaseException:
    """Return the operating system's error inside a library's error, else the error itself."""
    inner: BaseException | None = error
    root = error
    while inner is not None:
        # Some errors of requests and httpx are OSErrors without an errno.
        if isinstance(inner, OSError) and type(inner).__module__ in ("builtins", "socket", "ssl"):
            root = inner
        if isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[-1]
        else:
            inner = inner.__cause__ or inner.__context__
    return root
