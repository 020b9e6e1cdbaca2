"""The keeper's events: numbered, kept for a while, and waited for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator

from vestal.fleet.status import Event, EventKind

MOST_EVENTS = 2000


class EventLog:
    """The last events. Thread-safe."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._changed = threading.Condition()
        self._closed = False
        self._number = 0

    def add(
        self,
        kind: EventKind,
        text: str,
        *,
        revision: int,
        model: str | None = None,
        version: str | None = None,
        step: str | None = None,
    ) -> None:
        """Add an event; its number is one more than the last one's."""
        with self._changed:
            self._number += 1
            self._events.append(
                Event(
                    number=self._number,
                    time=time.time(),
                    kind=kind,
                    revision=revision,
                    model=model,
                    version=version,
                    step=step,
                    text=text,
                )
            )
            self._changed.notify_all()

    def after(self, number: int, timeout: float) -> Iterator[Event]:
        """Yield events with a higher number; wait for new ones for at most `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._number > number or self._closed,  # noqa: B023
                    max(0.0, deadline - time.monotonic()),
                )
                new = [event for event in self._events if event.number > number]
                closed = self._closed
            yield from new
            if new:
                number = new[-1].number
            if closed or time.monotonic() >= deadline:
                return

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
