"""What is asked of the server, and of whoever carries it out: send this request, pause, or work.

A call is a generator of steps: it yields a `Request`, a `Pause`, a `Wait` or a `Work`, is sent a
`Reply` or a `Broken` for each request and the result of each work, and returns its own. All rules
(retries, tokens, readiness, draining) are such generators, so they are written once for the
blocking client and for the asynchronous one.
"""

from __future__ import annotations

import errno
import json
import socket
import ssl
from collections.abc import Callable, Generator, Mapping
from threading import Thread
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from urllib.parse import quote

from vestal.client.tokens import Api
from vestal.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")

WAITING = "waiting for the answer"
"""The phase in which a server may have lost the request: it is sent, and no answer has begun."""

_NOTHING: Mapping[str, str] = MappingProxyType({})


class ApiCall(NamedTuple):
    """What is asked of the server, before tokens and addresses come to it.

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
    """`/models/mnist/1.0` of its parts, quoted; None parts are left out."""
    for part in parts:
        if part in ("", ".", "..") or not isinstance(part, (str, type(None))):
            raise UsageError(f"{part!r} is no name of a model or version: expected a text")
    return "".join("/" + quote(part, safe="") for part in parts if part is not None)


class Hedging(Protocol):
    """The rules for further copies of a request, as a transport needs them."""

    def next(self) -> HTTPRequest | float:
        """A copy to send now, or the seconds until this should be asked again."""

    def settles(self, outcome: HTTPResponse | TransportFailure) -> bool:
        """Does it end the exchange, although another copy is on its way?"""


class HTTPRequest(NamedTuple):
    """One request on the wire. Its headers hold the token: never in the repr.

    `base`: one of the client's addresses; `target`: what follows it, `/ping`.
    `limit`: seconds it may take, where that is less than what its call has left.
    `copies`: decides when a copy goes beside it, and which outcome of the two counts.
    """

    method: str
    base: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""
    limit: float | None = None
    hedging: Hedging | None = None

    @property
    def url(self) -> str:
        return self.base + self.target

    def __repr__(self) -> str:
        return f"<{self.method} {self.url}, {len(self.body)} bytes>"


class Pause(NamedTuple):
    """Wait so many seconds, or until the deadline, whichever comes first."""

    seconds: float


class Wait(NamedTuple):
    """Wait until another call ends the wait, so many seconds, or until the deadline."""

    future: Future[None]
    seconds: float


class BlockingIO(NamedTuple):
    """Reads a file or compresses an image: what must not hold an event loop.

    `may_hang`: what it reads may never come (a pipe, a socket). Where the deadline comes first,
    the outcome is `TOO_LATE`.
    """

    do: Callable[[], Any]
    may_hang: bool

    def start(self) -> Future[Any]:
        """Does it in a thread that nobody waits for at the end of the process."""
        from concurrent.futures import Future

        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # from here on nobody can cancel it

        def run() -> None:
            try:
                future.set_result(self.do())
            except BaseException as error:
                future.set_exception(error)

        Thread(target=run, name="vestal-work", daemon=True).start()
        return future


TOO_LATE = object()


class HTTPResponse(NamedTuple):
    """A whole answer. The names of `headers` are in lower case.

    `sent`: when its request was sent, by the monotonic clock.
    """

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    sent: float = 0.0

    def __repr__(self) -> str:
        return f"<{self.status} {self.reason}, {len(self.body)} bytes>"

    def without(self, token: str | None) -> HTTPResponse:
        """With the token blotted out where its text has it; TorchServe's have 8 letters."""
        if token is None or len(token) < 6:
            return self
        return self._replace(
            reason=self.reason.replace(token, "***"),
            body=self.body.replace(token.encode(), b"***"),
        )

    def json(self) -> Any:
        """The body parsed, None where it is no JSON."""
        try:
            return json.loads(self.body)
        except (RecursionError, ValueError):
            return None


_OWN_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class TransportFailure(NamedTuple):
    """No whole answer came.

    `phase`: what was being done ("connecting", "sending the body", ...).
    `sent`: the whole request had been handed to the network.
    `final`: trying again cannot help (a name that does not resolve, a certificate).
    """

    phase: str
    error: BaseException
    sent: bool
    final: bool = False

    @property
    def refused(self) -> bool:
        """No connection could be made, for a reason that does not lie in this process."""
        error = self.error
        own = isinstance(error, OSError) and error.errno in _OWN_LIMITS
        return self.phase == "connecting" and not isinstance(error, TimeoutError) and not own


def transport_failure(phase: str, error: BaseException, sent: bool) -> TransportFailure:
    """What either transport makes of a library's error."""
    root = root_of(error)
    unresolved = isinstance(root, socket.gaierror) and root.errno != socket.EAI_AGAIN
    # A TLS server that is killed says nothing at its end, which is no word on its certificate.
    gone = isinstance(root, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    untrusted = isinstance(root, ssl.SSLError) and not gone
    # urllib3 passes on what Python raises for a body of 10**18 bytes, or of less than none.
    absurd = isinstance(root, (MemoryError, OverflowError, ValueError)) and root is error
    return TransportFailure(phase, root, sent, final=unresolved or untrusted or absurd)


Outcome = HTTPResponse | TransportFailure

Flow = Generator[HTTPRequest | Pause | Wait | BlockingIO, Any, T]


def root_of(error: BaseException) -> BaseException:
    """The operating system's own error under the wrappings of the libraries; else the error."""
    inner: BaseException | None = error
    root = error
    while inner is not None:
        # Those of requests and httpx are or look like OSErrors too, and say less.
        if isinstance(inner, OSError) and type(inner).__module__ in ("builtins", "socket", "ssl"):
            root = inner
        if isinstance(inner, BaseExceptionGroup):
            inner = inner.exceptions[-1]
        else:
            inner = inner.__cause__ or inner.__context__
    return root
