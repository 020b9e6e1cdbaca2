"""A server that loses requests, for the client's tests."""

from __future__ import annotations

import threading

from client_wire import (
    Connection,
    Received,
    WireServer,
    http,
)

CUT = b"cut"
NEVER = b"never"


class Losing(WireServer):
    """Performs the n-th action for the n-th request with the body "lost"; responds to all others.

    An action is a response, CUT or NEVER; or a pair of an event to wait for and a response.
    """

    def __init__(self, *actions: bytes | tuple[threading.Event, bytes]) -> None:
        super().__init__(self._converse)
        self._actions = actions
        self._lock = threading.Lock()
        self.seen = 0
        self.targets: list[str] = []

    def _converse(self, connection: Connection) -> None:
        while (received := connection.receive()) is not None:
            self.targets.append(received.path)
            action = self._action(received)
            if action == CUT:
                connection.reset()
                return
            if action == NEVER:
                connection.hang()
                return
            connection.send(action)
            if b"connection: close" in action:
                return

    def _action(self, received: Received) -> bytes:
        if received.body != b"lost":
            return http(body="other")
        with self._lock:
            action = self._actions[min(self.seen, len(self._actions) - 1)]
            self.seen += 1
        if isinstance(action, tuple):
            event, action = action
            while not event.wait(0.05):
                if self._closing.is_set():
                    return NEVER
        return action
