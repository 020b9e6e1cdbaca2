"""Configuration of both clients, and the context of each call."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakSet

from vestal.client.connection_options import (
    Cert,
    ConnectionOptions,
    Verify,
    check_cert,
    check_headers,
    check_retries,
    check_verify,
)
from vestal.client.deadline import DEFAULT, Deadline, Timeout, UseClientTimeout, check
from vestal.client.errors import ClientError, InvalidAddress
from vestal.client.flow import Flow
from vestal.client.proxies import find_proxies, without_credentials
from vestal.client.reachability import ReachedAddresses
from vestal.client.retry_state import RetryState
from vestal.client.settings import Addresses, resolve
from vestal.client.tokens import Tokens
from vestal.client.tracing import NO_SPAN, Span, start_span
from vestal.errors import UsageError

T = TypeVar("T")

SECONDS = 30.0
"""Default timeout of a call."""
LOADING_SECONDS = 120.0
"""Default timeout of a call that waits for workers to load a model, as that of `vestal serve`."""
_WAIT_FOR_WORKERS = ("register", "wait_ready", "scale", "verify")


class _Transport(Protocol):
    def after_fork(self) -> None:
        """Runs in a child process before it starts threads."""


class Policy(NamedTuple):
    """`timeout`: as passed to the client. `retries`: None for no limit but the deadline."""

    timeout: Timeout
    retries: int | None
    hedge: bool


class CallContext(NamedTuple):
    """The state that all requests of one call share.

    `hedge`: send a second copy of a request that the server may have lost.
    `retries`: most retries of one request; None: the deadline is the only limit.
    `secrets`: header values that must not appear in errors.
    `model`, `version`: of the call, for its errors.
    `proxies`: the proxy of each address that has one.
    """

    addresses: Addresses
    tokens: Tokens
    deadline: Deadline
    retry_state: RetryState
    span: Span = NO_SPAN
    hedge: bool = True
    retries: int | None = None
    secrets: tuple[str, ...] = ()
    model: str | None = None
    version: str | None = None
    proxies: Mapping[str, str] = MappingProxyType({})

    def without_retries(self) -> CallContext:
        """For a question about the present state, such as whether a model is ready."""
        return self._replace(retries=0)

    def place(self, address: str) -> str:
        """Return an address for an error message, with its proxy."""
        proxy = self.proxies.get(address)
        return f"{address} through the proxy {without_credentials(proxy)}" if proxy else address


@contextmanager
def running(flow: Flow[T], context: CallContext) -> Iterator[None]:
    """At the end of a call, close its flow, which releases its resources, and end its span.

    An error without a model or version gets that of the call.
    """
    failure: BaseException | None = None
    try:
        yield
    except BaseException as error:
        failure = error
        raise
    finally:
        flow.close()
        if isinstance(failure, ClientError) and failure.model in (None, context.model):
            failure.model = context.model
            failure.version = failure.version or context.version
        context.span.end(failure)


class BaseClient:
    """Configuration of a client. Pickling a client keeps its configuration, not its connections."""

    _transport: _Transport

    def __init__(
        self,
        url: str | None = None,
        *,
        management: str | None = None,
        metrics: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        token: str | None = None,
        timeout: Timeout = DEFAULT,
        retries: int | None = None,
        hedge: bool = True,
        headers: Mapping[str, str] | None = None,
        verify: Verify = True,
        cert: Cert | None = None,
        transport: Any = None,
    ) -> None:
        if not isinstance(hedge, bool):
            raise UsageError(f"hedge is {hedge!r}: expected True or False")
        policy = Policy(_checked(timeout), check_retries(retries), hedge and transport is None)
        addresses, tokens = resolve(url, management, metrics, key_file, token)
        options = ConnectionOptions(
            check_headers(headers, tokens), check_verify(verify), check_cert(cert), transport
        )
        self.__setstate__((addresses, tokens, policy, options))

    def __getstate__(self) -> tuple[Addresses, Tokens, Policy, ConnectionOptions]:
        return self._addresses, self._tokens, self._policy, self._options

    def __setstate__(self, state: tuple[Addresses, Tokens, Policy, ConnectionOptions]) -> None:
        self._addresses, self._tokens, self._policy, self._options = state
        addresses = self._addresses.known()
        # The server that wrote the ready file was up: if it refuses a connection, it is restarting.
        self._retry_state = RetryState(ReachedAddresses(addresses if self._addresses.own else ()))
        try:
            direct = self._addresses.own or self._options.transport is not None
            self._proxies = {} if direct else find_proxies(addresses)
            self._open()
        except (ImportError, OSError, ValueError) as error:
            # The libraries raise these for values that they read from the environment.
            raise InvalidAddress(
                f"no client can be made for {' '.join(addresses)}: {error}. Check the "
                "proxies (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) and the CA bundle "
                "(REQUESTS_CA_BUNDLE, SSL_CERT_FILE) of the environment"
            ) from error
        _clients.add(self)

    def _open(self) -> None:
        """Create the transport, without any connection."""
        raise NotImplementedError

    def _after_fork(self) -> None:
        self._retry_state.reset()
        self._transport.after_fork()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {' '.join(self._addresses.known())}, {self._tokens!r}>"

    def _begin(
        self,
        timeout: Timeout,
        operation: str,
        model: str | None = None,
        version: str | None = None,
        traceparent: str | None = None,
    ) -> CallContext:
        seconds = self._policy.timeout if isinstance(timeout, UseClientTimeout) else timeout
        if isinstance(seconds, UseClientTimeout):
            seconds = LOADING_SECONDS if operation in _WAIT_FOR_WORKERS else SECONDS
        return CallContext(
            addresses=self._addresses,
            tokens=self._tokens,
            deadline=Deadline(seconds),
            retry_state=self._retry_state,
            span=start_span(operation, model, traceparent),
            hedge=self._policy.hedge,
            retries=self._policy.retries,
            secrets=tuple(self._options.headers.values()),
            model=model,
            version=version,
            proxies=self._proxies,
        )


def _checked(timeout: Timeout) -> Timeout:
    return timeout if isinstance(timeout, UseClientTimeout) else check(timeout)


_clients: WeakSet[BaseClient] = WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
