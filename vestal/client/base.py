"""What both clients are made of: the configuration, and what each call begins with."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakSet

from vestal.client.context import Context
from vestal.client.deadline import Deadline, Timeout, UseClientTimeout, check
from vestal.client.errors import InvalidAddress
from vestal.client.proxies import find_proxies
from vestal.client.reached import Reached
from vestal.client.settings import Addresses, resolve
from vestal.client.shared import Shared
from vestal.client.tokens import Tokens
from vestal.client.tracing import span
from vestal.errors import UsageError


class _Transport(Protocol):
    def after_fork(self) -> None:
        """Runs in a child process, before it has any other thread."""


class Base:
    """Pickled, a client is its configuration: addresses, source of tokens, timeout, hedge."""

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
        hedge: bool = True,
    ) -> None:
        if not isinstance(hedge, bool):
            raise UsageError(f"hedge is {hedge!r}: expected True or False")
        self._timeout, self._hedge = check(timeout), hedge
        self._configure(*resolve(url, management, metrics, key_file, token))

    def _configure(self, addresses: Addresses, tokens: Tokens) -> None:
        self._addresses, self._tokens = addresses, tokens
        # A server that wrote a ready file has been there: connections it refuses are an outage.
        self._shared = Shared(Reached(addresses.known() if addresses.own else ()))
        try:
            self._proxies = {} if addresses.own else find_proxies(addresses.known())
            self._open()
        except (ImportError, OSError, ValueError) as error:
            # Those of the libraries, for what they read of the environment.
            raise InvalidAddress(
                f"no client can be made for {' '.join(addresses.known())}: {error}. Are the "
                "proxies (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) and the CA bundle "
                "(REQUESTS_CA_BUNDLE, SSL_CERT_FILE) of the environment right?"
            ) from error
        _clients.add(self)

    def _open(self) -> None:
        """Makes the transport; no connection yet."""
        raise NotImplementedError

    def _after_fork(self) -> None:
        self._shared.reset()
        self._transport.after_fork()

    def __reduce__(self) -> tuple[Callable[..., Base], tuple[Any, ...]]:
        return _restore, (type(self), self._addresses, self._tokens, self._timeout, self._hedge)

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
    ) -> Context:
        seconds = self._timeout if isinstance(timeout, UseClientTimeout) else timeout
        deadline = Deadline(seconds)
        return Context(
            addresses=self._addresses,
            tokens=self._tokens,
            deadline=deadline,
            shared=self._shared,
            proxies=self._proxies,
            span=span(operation, model, traceparent),
            hedge=self._hedge,
            model=model,
            version=version,
        )


_clients: WeakSet[Base] = WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


def _restore(
    kind: type[Base], addresses: Addresses, tokens: Tokens, timeout: float | None, hedge: bool
) -> Base:
    client = kind.__new__(kind)
    client._timeout, client._hedge = timeout, hedge
    client._configure(addresses, tokens)
    return client
