"""The keeper's events as lines of JSON, for `/v1/events`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator

import anyio

from vestal.fleet.control import KeeperControl
from vestal.fleet.status import Event

MAX_STREAMS = 32
_SLICE_SECONDS = 0.5
"""Longest wait in one thread, and so the delay with which a stream notices that it must end."""
_HEARTBEAT_SECONDS = 5.0


class EventStream:
    """Reads events in threads of its own, so that open streams do not delay other calls.

    Args:
        stopping: whether all streams must end now.
    """

    limit = MAX_STREAMS

    def __init__(self, control: KeeperControl, stopping: Callable[[], bool]) -> None:
        self._control, self._stopping = control, stopping
        self._open = 0
        self._threads: anyio.CapacityLimiter | None = None

    def is_free(self) -> bool:
        """Whether one more stream may be opened."""
        return self._open < self.limit

    async def lines(self, after: int, seconds: float) -> AsyncIterator[bytes]:
        """Yield one line per event, and an empty line when nothing happens for 5 s."""
        # A limiter belongs to the event loop in which it is created.
        self._threads = self._threads or anyio.CapacityLimiter(self.limit)
        deadline = time.monotonic() + seconds
        heartbeat = time.monotonic() + _HEARTBEAT_SECONDS
        self._open += 1
        try:
            while not self._stopping():
                left = deadline - time.monotonic()
                events = self._control.events(after, max(0.0, min(_SLICE_SECONDS, left)))
                async for event in self._in_thread(events):
                    after = event.number
                    heartbeat = time.monotonic() + _HEARTBEAT_SECONDS
                    yield event.model_dump_json().encode() + b"\n"
                if time.monotonic() >= deadline:
                    return
                if time.monotonic() >= heartbeat:
                    heartbeat = time.monotonic() + _HEARTBEAT_SECONDS
                    yield b"\n"
        finally:
            self._open -= 1

    async def _in_thread(self, events: Iterator[Event]) -> AsyncIterator[Event]:
        while True:
            event = await anyio.to_thread.run_sync(next, events, None, limiter=self._threads)
            if event is None:
                return
            yield event
