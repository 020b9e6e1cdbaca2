"""The transport of `AsyncClient`: send requests through pooled httpx clients, within a deadline."""

from __future__ import annotations

import asyncio
import ssl
import time
from asyncio import FIRST_COMPLETED, ensure_future
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from vestal.client.async_pool import Pool, Upload, check_transport, httpx, new_client, trust
from vestal.client.base import CallContext, running
from vestal.client.connection_options import ConnectionOptions
from vestal.client.deadline import Deadline
from vestal.client.flow import (
    TOO_LATE,
    WAITING,
    BlockingIO,
    Flow,
    HTTPRequest,
    HTTPResponse,
    Outcome,
    Step,
    TransportFailure,
    transport_failure,
)

T = TypeVar("T")

SENDING_POLL = 0.5  # seconds between two checks whether the first request has been sent


class AsyncTransport:
    """Each event loop, and a child process after a fork, gets its own connections."""

    def __init__(
        self, addresses: tuple[str, ...], proxies: Mapping[str, str], options: ConnectionOptions
    ) -> None:
        self._secure = any(address.startswith("https:") for address in addresses)
        self._options = options
        accepts = any(name.lower() == "accept" for name in options.headers)
        self._headers = {**({} if accepts else {"Accept": "*/*"}), **options.headers}
        self._transport = check_transport(options.transport)
        # All connections share one: httpx takes 5 ms to create it.
        self._trusted: ssl.SSLContext | None = trust(self._secure, options)
        try:
            for address in addresses:
                _url(address)
                # Raises for a proxy that httpx cannot use.
                new_client(self._trusted, proxies.get(address), self._transport)
        except httpx.InvalidURL as error:
            raise ValueError(str(error)) from error
        self._proxies = proxies
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, Pool] = WeakKeyDictionary()
        self._inherited: list[object] = []
        self._background: set[asyncio.Future[Any]] = set()

    async def run(self, flow: Flow[T], context: CallContext) -> T:
        """Carry out the steps of a call in this task and return its result."""
        outcome: Any = None
        with running(flow, context):
            while True:
                try:
                    step = flow.send(outcome)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                outcome = await self._carry_out(step, context.deadline)

    async def _carry_out(self, step: Step, deadline: Deadline) -> Any:
        if isinstance(step, HTTPRequest):
            return await self.send(step, deadline.within(step.limit))
        if isinstance(step, BlockingIO):
            try:
                async with asyncio.timeout(deadline.timeout()):
                    if step.may_hang:
                        return await asyncio.wrap_future(step.start())
                    return await asyncio.to_thread(step.do)
            except TimeoutError:
                return TOO_LATE
        seconds = min(step.seconds, deadline.remaining())
        if step.future is None:
            await asyncio.sleep(seconds)
        else:
            await asyncio.wait([asyncio.wrap_future(step.future)], timeout=seconds)
        return None

    async def run_shielded(self, flow: Flow[T], context: CallContext) -> T:
        """Same as `run`, but continue in the background if the caller is cancelled."""
        task = asyncio.ensure_future(self.run(flow, context))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return await asyncio.shield(task)

    async def send(self, request: HTTPRequest, deadline: Deadline) -> Outcome:
        """Send a request and its second copies; never raises for a network error."""
        upload = Upload(request.body)
        if request.hedging is None:
            return await self._exchange(request, upload, deadline)
        racing = {ensure_future(self._exchange(request, upload, deadline))}
        try:
            while True:
                step = request.hedging.next() if upload.phase == WAITING else SENDING_POLL
                if isinstance(step, HTTPRequest):
                    racing.add(ensure_future(self._exchange(step, Upload(step.body), deadline)))
                    continue
                done, _ = await asyncio.wait(racing, timeout=step, return_when=FIRST_COMPLETED)
                for each in done:
                    racing.remove(each)
                    outcome = each.result()
                    if not racing or request.hedging.settles(outcome):
                        return outcome
        finally:
            for each in racing:
                each.cancel()
            await asyncio.gather(*racing, return_exceptions=True)

    async def _exchange(self, request: HTTPRequest, upload: Upload, deadline: Deadline) -> Outcome:
        pool = self._pool()
        try:
            client = await pool.take(request.base, deadline)
        except TimeoutError as error:
            return TransportFailure(
                f"waiting for one of {pool.connections} connections", error, sent=False
            )
        outcome: Outcome | None = None
        try:
            outcome = await _send(client, self._headers, request, upload, deadline)
            return outcome
        finally:
            if isinstance(outcome, HTTPResponse):
                await pool.give_back(request.base, client)
            else:
                await pool.drop(request.base, client, upload)

    def _pool(self) -> Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            self._trusted = self._trusted or trust(self._secure, self._options)
            pool = self._pools[loop] = Pool(self._trusted, self._proxies, self._transport)
        return pool

    def after_fork(self) -> None:
        """Keep the parent's connections: garbage collection would close them."""
        self._inherited += [self._pools, self._trusted]
        self._pools = WeakKeyDictionary()
        self._trusted = None  # another thread of the parent may hold its locks

    async def close(self) -> None:
        """Close this event loop's connections; a second call does nothing."""
        await self._pool().close()
        if self._options.transport is not None:
            await self._options.transport.aclose()


async def _send(
    client: httpx.AsyncClient,
    extra: Mapping[str, str],
    request: HTTPRequest,
    upload: Upload,
    deadline: Deadline,
) -> Outcome:
    url = _url(request.base + request.target)
    sent = time.monotonic()
    headers = {"Host": url.netloc.decode("ascii"), **extra, **request.headers}
    if request.body or request.method == "POST":
        headers["Content-Length"] = str(len(request.body))
    try:
        async with asyncio.timeout(deadline.timeout()):
            response = await client.send(
                httpx.Request(
                    request.method,
                    url,
                    headers=headers,
                    stream=upload,
                    extensions={"trace": upload.trace},
                ),
                stream=True,
            )
            try:
                upload.phase = "reading the answer"
                body = await response.aread()
            finally:
                await response.aclose()
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        return transport_failure("connecting", error, sent=False)
    except (httpx.HTTPError, OSError) as error:
        return transport_failure(upload.phase, error, upload.sent)
    # httpx converts the names to lower case and joins several values of a name by commas.
    return HTTPResponse(
        response.status_code, response.reason_phrase, dict(response.headers), body, sent
    )


_url = lru_cache(maxsize=256)(httpx.URL)
