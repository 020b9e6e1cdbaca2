"""Start TorchServe, and start it again when it has ended."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from vestal.configuration.ports import port_in_use_message
from vestal.errors import VestalError
from vestal.server.launch import LaunchOptions, TorchServe
from vestal.server.logs import Logs

MOST_DEATHS = 4
DEATHS_SECONDS = 180.0
"""After so many deaths within so many seconds, TorchServe is not started again."""
_BACKOFF = (0.0, 1.0, 5.0)
"""Seconds before each restart."""


class ServerEnded(VestalError):
    """TorchServe has ended and is not started again."""


class Runner:
    """One TorchServe process after the other; `generation` counts them.

    Args:
        lock: file descriptor of the project's lock, which the guardian keeps open.
    """

    def __init__(self, options: LaunchOptions, lock: int) -> None:
        self._options, self._lock = options, lock
        self._process: TorchServe | None = None
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS)
        self.logs = Logs(options.project.logs, 0)
        self.generation = 0
        self.ended = threading.Event()
        """TorchServe is not running."""

    def start(self) -> None:
        """Start a process. Raises VestalError."""
        self.logs = Logs(self._options.project.logs, time.time())
        self._process = TorchServe(self._options, self._lock)
        self.generation += 1
        self.ended.clear()

    @property
    def pid(self) -> int | None:
        """Process id of TorchServe; None if it is not running."""
        process = self._process
        return None if process is None else process.pid

    def check(self, seconds: float = 0.0) -> None:
        """Raise ServerEnded if the process ends within this many seconds."""
        if self._process is None:
            raise ServerEnded("TorchServe is not running")
        reason = self._process.ended(seconds)
        if reason is None:
            return
        self.ended.set()
        port = self.logs.unbound_port()
        for endpoint in self._options.endpoints:
            if endpoint.port == port:  # taken after it was checked
                raise ServerEnded(port_in_use_message(endpoint))
        raise ServerEnded("\n".join([f"TorchServe ended ({reason})", *self.logs.server_tail()]))

    def restart(
        self, cause: ServerEnded, on_end: Callable[[], None], wait: Callable[[float], bool]
    ) -> None:
        """Start a new process after the end of the old one.

        Args:
            on_end: called when the old one's guardian has removed the state files.
            wait: waits so many seconds; True if the server is to stop.

        Raises:
            ServerEnded: the cause, after repeated deaths.
        """
        self._deaths.append(time.monotonic())
        recent = [each for each in self._deaths if each > time.monotonic() - DEATHS_SECONDS]
        if len(recent) >= MOST_DEATHS:
            raise ServerEnded(
                f"{cause}\nIt ended {len(recent)} times within {DEATHS_SECONDS:g} s, so it is not "
                "started again"
            )
        self.stop()
        on_end()
        if not wait(_BACKOFF[min(len(recent), len(_BACKOFF)) - 1]):
            self.start()

    def stop(self) -> None:
        """Stop the process; a second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.stop()
