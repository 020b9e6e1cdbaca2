"""The connections of `AsyncClient`: httpx clients, each for one request at a time."""

from __future__ import annotations

import asyncio
import os
import ssl
from asyncio import ensure_future
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from typing import Any

from vestal.client.connection_options import ConnectionOptions, ca_context
from vestal.client.deadline import Deadline
from vestal.client.flow import WAITING
from vestal.errors import UsageError

try:
    import httpx as httpx
except ImportError:
    raise UsageError(
        "AsyncClient needs httpx, which is not installed: pip install 'vestal[async]'"
    ) from None

CONNECTIONS = 256
"""Most connections to one address in each event loop, opened one by one as calls need them.

More could reach the usual limit of 1,024 open files. Further calls wait for a free connection.
"""
PIECE = 65536
"""Bytes of an upload per write; with larger writes, a broken connection is noticed too late."""


class Upload(httpx.AsyncByteStream):
    """A request body, the progress of its request, and the connection opened for it."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.phase = "connecting"
        self.sent = False
        self.connection: Any = None

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event.endswith("connect_tcp.complete"):
            self.connection = info["return_value"]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.phase = "sending the request"
        for start in range(0, len(self._body), PIECE):
            yield self._body[start : start + PIECE]  # no copy if this is the whole body
        self.sent = True
        self.phase = WAITING


class Pool:
    """The httpx clients of one event loop, each for one request at a time.

    With 32 connections, httpcore's pool takes longer than the request, because it iterates over all
    of them several times. This pool takes the connection that was used last.
    """

    def __init__(
        self,
        trusted: ssl.SSLContext,
        proxies: Mapping[str, str],
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._trusted = trusted
        self._proxies = proxies
        self._transport = transport
        self.connections = CONNECTIONS
        self._idle: defaultdict[str, list[httpx.AsyncClient]] = defaultdict(list)
        self._free: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(self.connections)
        )
        self._closing: set[asyncio.Future[None]] = set()
        self._closed = False

    async def take(self, base: str, deadline: Deadline) -> httpx.AsyncClient:
        """Take an idle client for an address, or a new one; raises TimeoutError."""
        if self._free[base].locked():
            async with asyncio.timeout(deadline.timeout()):
                await self._free[base].acquire()
        else:
            await self._free[base].acquire()
        if self._closed:
            self._free[base].release()
            raise UsageError("this client is closed; create a new one")
        idle = self._idle[base]
        if idle:
            return idle.pop()
        return new_client(self._trusted, self._proxies.get(base), self._transport)

    async def give_back(self, base: str, client: httpx.AsyncClient) -> None:
        """Return a client that has read a whole response."""
        if self._closed:
            await client.aclose()
        else:
            self._idle[base].append(client)
        self._free[base].release()

    async def drop(self, base: str, client: httpx.AsyncClient, upload: Upload) -> None:
        """Close a client after an incomplete exchange, even if the task is cancelled."""

        async def close() -> None:
            # If the TLS handshake is cancelled, httpcore does not close the connection.
            try:
                if upload.connection is not None:
                    await upload.connection.aclose()
                await client.aclose()
            finally:
                self._free[base].release()

        closing = ensure_future(close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.shield(closing)

    async def close(self) -> None:
        self._closed = True
        for idle in self._idle.values():
            while idle:
                await idle.pop().aclose()
        await asyncio.gather(*self._closing)


class _Borrowed(httpx.AsyncBaseTransport):
    """A caller's transport, which the httpx clients share and do not close."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)


def check_transport(transport: object) -> httpx.AsyncBaseTransport | None:
    """Raises UsageError unless it is an httpx transport for asyncio, or None."""
    if transport is None:
        return None
    if not isinstance(transport, httpx.AsyncBaseTransport):
        raise UsageError(
            f"transport is of type {type(transport).__name__}: expected an httpx transport "
            "(httpx.AsyncBaseTransport, such as httpx.MockTransport)"
        )
    return _Borrowed(transport)


def new_client(
    trusted: ssl.SSLContext, proxy: str | None, transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=transport,
        verify=trusted,
        proxy=proxy,
        trust_env=False,  # read by `vestal.client.proxies`
        timeout=None,  # noqa: S113  each call has a deadline
        follow_redirects=False,
    )


def trust(secure: bool, options: ConnectionOptions) -> ssl.SSLContext:
    """Make the TLS context, with the CA bundles of requests; an empty one if not `secure`."""
    if not secure:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bundle = options.verify
    if bundle is True:
        named = map(os.environ.get, ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"))
        bundle = next(filter(None, named), True)
    if isinstance(bundle, str):
        context = ca_context(bundle)
    else:
        context = httpx.create_ssl_context(verify=bundle)
    if options.cert is not None:
        paths = options.cert if isinstance(options.cert, tuple) else (options.cert,)
        context.load_cert_chain(*paths)
    return context
