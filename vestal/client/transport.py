"""The transport of `Client`: send requests through urllib3's pools, within a deadline.

An adapter of requests creates the pools, one per address, because it knows the proxies and
certificates of the environment. Each request then goes directly to its pool: preparing it with
requests would cost more than sending it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, ProxyManager, Retry
from urllib3.exceptions import HTTPError

from vestal.client.base import CallContext, running
from vestal.client.connection_options import ConnectionOptions
from vestal.client.custom_transport import AdapterTransport
from vestal.client.deadline import Deadline
from vestal.client.flow import (
    TOO_LATE,
    BlockingIO,
    Flow,
    HTTPRequest,
    HTTPResponse,
    Outcome,
    Step,
    transport_failure,
)
from vestal.client.sockets import POOLS, exchange, ssl_context
from vestal.errors import UsageError

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vestal.client.hedging import HedgingPolicy

T = TypeVar("T")

CONNECTIONS = 256  # idle connections kept for each address; opened one by one, as calls need them
CLOSED = "this client is closed; create a new one"
_NO_RETRIES = Retry(False)
COPY_POLL = 0.05  # seconds between two checks for the response to a copy of a request


class _Route(NamedTuple):
    """`prefix`: the path of the address; the whole address for an HTTP proxy."""

    pool: HTTPConnectionPool
    prefix: str


class _Adapter(HTTPAdapter):
    def __init__(self, environment: Mapping[str, Mapping[str, Any]]) -> None:
        self._verified = all(settings["verify"] for settings in environment.values())
        super().__init__(pool_maxsize=CONNECTIONS)
        self.routes = {
            address: self._route(address, **settings) for address, settings in environment.items()
        }

    def _route(self, address: str, *, proxies: Any, verify: Any, cert: Any, stream: Any) -> _Route:
        request = requests.Request("GET", address).prepare()
        pool: Any = self.get_connection_with_tls_context(
            request, verify, proxies=proxies, cert=cert
        )
        self.cert_verify(pool, address, verify, cert)  # type: ignore[no-untyped-call]
        return _Route(pool, self.request_url(request, proxies).rstrip("/"))

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=ssl_context(self._verified))
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        kwargs["ssl_context"] = ssl_context(self._verified)
        if proxy.lower().startswith("https:"):
            kwargs["proxy_ssl_context"] = ssl_context()
        manager = super().proxy_manager_for(proxy, **kwargs)
        if isinstance(manager, ProxyManager):  # the manager of a SOCKS proxy has its own pools
            manager.pool_classes_by_scheme = POOLS
        return manager


class Transport:
    """Thread-safe. A child process gets its own connections after a fork."""

    def __init__(
        self, addresses: tuple[str, ...], proxies: Mapping[str, str], options: ConnectionOptions
    ) -> None:
        self._headers = options.headers
        self._custom = None if options.transport is None else AdapterTransport(options)
        verify = None if options.verify is True else options.verify
        # Read the environment once: a Session would read it for every request, and an entry in
        # .netrc would replace the token.
        with requests.Session() as session:
            self._environment: dict[str, Mapping[str, Any]] = {
                address: {
                    **session.merge_environment_settings(address, {}, None, verify, options.cert),
                    "proxies": {"all": proxies[address]} if address in proxies else {},
                }
                for address in addresses
            }
        self._adapter: _Adapter | None = _Adapter(self._environment)
        self._closed = False
        self._inherited: list[_Adapter | None] = []
        self._lock = Lock()

    def run(self, flow: Flow[T], context: CallContext) -> T:
        """Carry out the steps of a call in this thread and return its result."""
        outcome: Any = None
        with running(flow, context):
            while True:
                try:
                    step = flow.send(outcome)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                outcome = self._carry_out(step, context.deadline)

    def _carry_out(self, step: Step, deadline: Deadline) -> Any:
        if isinstance(step, HTTPRequest):
            return self.send(step, deadline.within(step.limit))
        if isinstance(step, BlockingIO) and not step.may_hang:
            return step.do()
        try:
            if isinstance(step, BlockingIO):
                return step.start().result(deadline.timeout())
            seconds = min(step.seconds, deadline.remaining())
            if step.future is None:
                time.sleep(seconds)
            else:
                step.future.result(seconds)
        except TimeoutError:
            return TOO_LATE
        return None

    def send(self, request: HTTPRequest, deadline: Deadline) -> Outcome:
        """Send a request and its second copies; never raises for a network error."""
        if self._custom is not None:
            if self._closed:
                raise UsageError(CLOSED)
            return self._custom.send(request, self._headers, deadline)
        if request.hedging is None:
            return self._exchange(request, deadline)
        race = _Race(request.hedging, lambda copy: self._exchange(copy, deadline))
        return race.outcome(self._exchange(request, deadline, race), deadline)

    def _exchange(
        self, request: HTTPRequest, deadline: Deadline, race: _Race | None = None
    ) -> Outcome:
        pool, prefix = self._open().routes[request.base]
        sent = time.monotonic()
        with exchange(deadline) as current:
            if race is not None:
                current.check = race.check
                current.check_at = deadline.elapsed + race.check()
            try:
                response = pool.urlopen(
                    request.method,
                    prefix + request.target,
                    body=request.body or None,
                    headers={**self._headers, **request.headers},
                    retries=_NO_RETRIES,
                    redirect=False,
                    assert_same_host=False,
                    timeout=current.timeout(),
                    preload_content=False,
                )
                current.phase = "reading the answer"
                body = response.read()
            except (HTTPError, MemoryError, OSError, OverflowError, ValueError) as error:
                return transport_failure(current.phase, error, current.sent)
        response.release_conn()
        headers = {name.lower(): value for name, value in response.headers.items()}
        return HTTPResponse(response.status, response.reason or "", headers, body, sent)

    def _open(self) -> _Adapter:
        adapter = self._adapter
        if adapter is None:  # the client is closed, or this is a child process
            with self._lock:
                if self._closed:
                    raise UsageError(CLOSED)
                adapter = self._adapter = self._adapter or _Adapter(self._environment)
        return adapter

    def after_fork(self) -> None:
        """Keep the parent's connections: garbage collection would close them."""
        self._inherited.append(self._adapter)
        self._adapter = None
        self._lock = Lock()

    def close(self) -> None:
        """Close idle connections; a second call does nothing."""
        with self._lock:
            self._closed = True
            adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()
        if self._custom is not None:
            self._custom.close()


class _Settled(OSError):
    """The response to a copy counts, so the wait for the first request ends."""


class _Race:
    """A request and its second copies, each copy in its own thread."""

    def __init__(self, hedging: HedgingPolicy, send: Callable[[HTTPRequest], Outcome]) -> None:
        self._hedging, self._send = hedging, send
        self._in_flight: list[Future[Outcome]] = []
        self._settled: Outcome | None = None

    def check(self) -> float:
        """Return the seconds until the next check; raises _Settled."""
        for copy in [copy for copy in self._in_flight if copy.done()]:
            outcome = self._take(copy)
            if self._hedging.settles(outcome):
                self._settled = outcome
                raise _Settled
        return self._next()

    def _next(self) -> float:
        step = self._hedging.next()
        if isinstance(step, HTTPRequest):
            self._in_flight.append(BlockingIO(lambda: self._send(step), may_hang=True).start())
            return COPY_POLL
        return min(COPY_POLL, step) if self._in_flight else step

    def _take(self, copy: Future[Outcome]) -> Outcome:
        self._in_flight.remove(copy)
        return copy.result()

    def outcome(self, outcome: Outcome, deadline: Deadline) -> Outcome:
        """Return the outcome that counts; `outcome`: of the first request."""
        if self._settled is not None or not self._in_flight:
            return self._settled or outcome
        from concurrent.futures import FIRST_COMPLETED, wait

        while self._in_flight and not self._hedging.settles(outcome):
            done: set[Future[Outcome]] = set()
            while not done:
                if deadline.expired:
                    return outcome
                pause = min(self._next(), deadline.remaining())
                done, _ = wait(self._in_flight, pause, FIRST_COMPLETED)
            outcome = self._take(done.pop())
        return outcome
