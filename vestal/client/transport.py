"""The blocking half: sends a request through requests' adapter, pooled, within a deadline."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util.ssl_ import create_urllib3_context

from vestal.client.context import Context, finish
from vestal.client.deadline import Deadline
from vestal.client.sockets import POOLS, DeadlineSSLSocket, Exchange, exchange
from vestal.client.steps import Broken, Pause, Reply, Request, Steps, root_of
from vestal.errors import UsageError

T = TypeVar("T")

CONNECTIONS = 256
"""Idle connections kept for each address; they are made one by one, as calls need them."""


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        context = create_urllib3_context()
        context.sslsocket_class = DeadlineSSLSocket
        super().init_poolmanager(*args, **kwargs, ssl_context=context)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = POOLS
        return manager


class Transport:
    """Thread-safe. A child after a fork gets connections of its own."""

    def __init__(self, addresses: tuple[str, ...]) -> None:
        # requests' Session would read proxies and .netrc again for every request, and a .netrc
        # entry would replace our token; so the environment is read once, here.
        session = requests.Session()
        self._environment: dict[str, Mapping[str, Any]] = {
            address: session.merge_environment_settings(address, {}, None, None, None)
            for address in addresses
        }
        session.close()
        self._inherited: list[HTTPAdapter] = []
        self._adapter: HTTPAdapter | None = _adapter()
        self._pid = os.getpid()

    def carry_out(self, steps: Steps[T], context: Context) -> T:
        """Takes a call's steps one by one in this thread, and gives its result."""
        outcome: Any = None
        error: BaseException | None = None
        try:
            while True:
                step = steps.send(outcome)
                if isinstance(step, Request):
                    outcome = self.send(step, context.deadline.within(step.limit))
                elif isinstance(step, Pause):
                    time.sleep(min(step.seconds, context.deadline.remaining()))
                    outcome = None
                else:
                    outcome = step.do()
        except StopIteration as stop:
            result: T = stop.value
            return result
        except BaseException as raised:
            error = raised
            raise
        finally:
            finish(steps, context, error)

    def send(self, request: Request, deadline: Deadline) -> Reply | Broken:
        """Sends once; never raises for what the network does."""
        adapter = self._open()
        prepared = requests.Request(
            request.method, request.url, headers=dict(request.headers), data=request.body
        ).prepare()
        address = next((a for a in self._environment if request.url.startswith(a)), None)
        environment = self._environment[address] if address else {}
        with exchange(deadline) as current:
            try:
                current.timeout()
                response = adapter.send(prepared, **{**environment, "stream": True})
                with response:
                    current.phase = "reading the answer"
                    body = response.content
            except (requests.RequestException, HTTPError, OSError) as error:
                return _broken(current, error)
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(response.status_code, response.reason or "", headers, body)

    def _open(self) -> HTTPAdapter:
        if self._pid != os.getpid():
            # The parent's sockets are its own: kept, not closed, since its pool may be locked.
            self._pid = os.getpid()
            if self._adapter is not None:
                self._inherited.append(self._adapter)
                self._adapter = _adapter()
        if self._adapter is None:
            raise UsageError("this client is closed: make a new one")
        return self._adapter

    def close(self) -> None:
        """Closes idle connections; a second call does nothing."""
        adapter, self._adapter = self._adapter, None
        if adapter is not None and self._pid == os.getpid():
            adapter.close()


def _adapter() -> HTTPAdapter:
    return _Adapter(pool_connections=8, pool_maxsize=CONNECTIONS, max_retries=0)


def _broken(current: Exchange, error: Exception) -> Broken:
    root = root_of(error)
    unresolved = isinstance(root, socket.gaierror) and root.errno != socket.EAI_AGAIN
    final = unresolved or isinstance(
        error, (requests.exceptions.SSLError, requests.exceptions.InvalidURL)
    )
    return Broken(current.phase, root, current.sent, final)
