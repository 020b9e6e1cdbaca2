"""Configuration of both clients, and the context of each call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar
from weakref import WeakSet

from vestal.client.connection_options import (
    Cert,
    ConnectionOptions,
    Verify,
    check_options,
    check_retries,
)
from vestal.client.deadline import Deadline, Timeout, UseClientTimeout, check
from vestal.client.errors import ClientError, InvalidAddress
from vestal.client.flow import Flow
from vestal.client.proxies import find_proxies, without_credentials
from vestal.client.reachability import ReachedAddresses
from vestal.client.retry_state import RetryState
from vestal.client.settings import Addresses, resolve
from vestal.client.tokens import Tokens
from vestal.client.tracing import NO_SPAN, Span, span
from vestal.errors import UsageError

T = TypeVar("T")


class _Transport(Protocol):
    def after_fork(self) -> None:
        """Runs in a child process before it starts threads."""


class Policy(NamedTuple):
    """`timeout`: seconds, None for no deadline. `retries`: None for as many as it allows."""

    timeout: float | None
    retries: int | None
    hedge: bool


class CallContext(NamedTuple):
    """What all requests of one call share.

    `hedge`: a request that may be lost gets a second copy.
    `retrying`: False for a question about this moment (is it ready?), which is never retried.
    `retries`: the most retries of one request; None: as many as the deadline allows.
    `secrets`: header values that must not appear in errors.
    `model`, `version`: of the call, for its errors.
    `proxies`: the proxy of each address that is called through one.
    """

    addresses: Addresses
    tokens: Tokens
    deadline: Deadline
    retry_state: RetryState
    span: Span = NO_SPAN
    retrying: bool = True
    hedge: bool = True
    retries: int | None = None
    secrets: tuple[str, ...] = ()
    model: str | None = None
    version: str | None = None
    proxies: Mapping[str, str] = MappingProxyType({})

    def without_retries(self) -> CallContext:
        return self._replace(retrying=False)

    def place(self, address: str) -> str:
        """Return an address for an error message, with its proxy."""
        proxy = self.proxies.get(address)
        return f"{address} through the proxy {without_credentials(proxy)}" if proxy else address


def finish(flow: Flow[T], context: CallContext, error: BaseException | None) -> None:
    """End a call: close its flow, which releases what it holds, and its span.

    An error without model or version gets the call's.
    """
    flow.close()
    if isinstance(error, ClientError) and error.model in (None, context.model):
        version = error.version or context.version
        error.details = error.details._replace(model=context.model, version=version)
    context.span.end(error)


class BaseClient:
    """Configuration of a client. A pickled client is its configuration, without connections."""

    _transport: _Transport

    def __init__(
        self,
        url: str | None = None,
        *,
        management: str | None = None,
        metrics: str | None = None,
        key_file: str | os.PathLike[str] | None = None,
        token: str | None = None,
        timeout: float | None = 30.0,
        retries: int | None = None,
        hedge: bool = True,
        headers: Mapping[str, str] | None = None,
        verify: Verify = True,
        cert: Cert | None = None,
        transport: Any = None,
    ) -> None:
        if not isinstance(hedge, bool):
            raise UsageError(f"hedge is {hedge!r}: expected True or False")
        policy = Policy(check(timeout), check_retries(retries), hedge and transport is None)
        addresses, tokens = resolve(url, management, metrics, key_file, token)
        options = check_options(headers, verify, cert, transport, tokens)
        self._configure(addresses, tokens, policy, options)

    def _configure(
        self, addresses: Addresses, tokens: Tokens, policy: Policy, options: ConnectionOptions
    ) -> None:
        self._addresses, self._tokens = addresses, tokens
        self._policy, self._options = policy, options
        # The server of a ready file was up once: connections that it refuses are an outage.
        self._retry_state = RetryState(ReachedAddresses(addresses.known() if addresses.own else ()))
        try:
            direct = addresses.own or options.transport is not None
            self._proxies = {} if direct else find_proxies(addresses.known())
            self._open()
        except (ImportError, OSError, ValueError) as error:
            # Raised by the libraries for values that they read from the environment.
            raise InvalidAddress(
                f"no client can be made for {' '.join(addresses.known())}: {error}. Check the "
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

    def __reduce__(self) -> tuple[Callable[..., BaseClient], tuple[Any, ...]]:
        return _restore, (
            type(self),
            self._addresses,
            self._tokens,
            self._policy,
            self._options,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {' '.join(self._addresses.known())}, {self._tokens!r}>"

    def _begin(
        self,
        timeout: Timeout,
        operation: str,
        model: str | None,
        version: str | None = None,
        *,
        traceparent: str | None = None,
    ) -> CallContext:
        seconds = self._policy.timeout if isinstance(timeout, UseClientTimeout) else timeout
        deadline = Deadline(seconds)
        return CallContext(
            addresses=self._addresses,
            tokens=self._tokens,
            deadline=deadline,
            retry_state=self._retry_state,
            proxies=self._proxies,
            span=span(operation, model, traceparent),
            hedge=self._policy.hedge,
            retries=self._policy.retries,
            secrets=tuple(self._options.headers.values()),
            model=model,
            version=version,
        )


_clients: WeakSet[BaseClient] = WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


def _restore(
    kind: type[BaseClient],
    addresses: Addresses,
    tokens: Tokens,
    policy: Policy,
    options: ConnectionOptions,
) -> BaseClient:
    client = kind.__new__(kind)
    client._configure(addresses, tokens, policy, options)
    return client
