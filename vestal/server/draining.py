"""Stopping without lost requests: wait until no version has a request in work.

A version is idle when its queue is empty and each worker has described itself, which it does after
its work. The server is idle when all versions are, and no request has arrived meanwhile: new ones
are served all the time. `pendingRequests` alone is not enough, because it counts neither the batch
in a worker nor the one that TorchServe is gathering.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests

from vestal.client.draining import worker_that_described
from vestal.server.api import Api

QUIET_SECONDS = 0.3
"""For requests that the network or TorchServe had not read yet."""
_POLL_SECONDS = 0.05
_CALL_SECONDS = 5.0


@dataclass(frozen=True)
class Unfinished:
    """`least` to `most` requests to a version that are not answered yet."""

    name: str
    least: int
    most: int


def counted(unfinished: list[Unfinished]) -> str:
    """`3 requests (mnist 1.0: 3)`; `1 to 8` where the size of a batch in work is unknown."""

    def number(least: int, most: int) -> str:
        return str(most) if least == most else f"{least} to {most}"

    total = number(sum(each.least for each in unfinished), sum(each.most for each in unfinished))
    each = ", ".join(f"{one.name}: {number(one.least, one.most)}" for one in unfinished)
    return f"{total} request{'' if total == '1' else 's'} ({each})"


class Draining:
    """Waits until a server is idle. `check` raises when it ends within so many seconds."""

    def __init__(self, api: Api, check: Callable[[float], None], seconds: float) -> None:
        self._api, self._check = api, check
        self._deadline = time.monotonic() + seconds

    def wait(self) -> list[Unfinished]:
        """Returns [] as soon as the server is idle, else what is unfinished when time is over.

        Raises requests.RequestException where TorchServe does not tell.
        """
        pool = ThreadPoolExecutor(thread_name_prefix="vestal-drain")
        quiet_since: float | None = None
        try:
            while True:
                arrivals = self._api.arrivals(_CALL_SECONDS)
                names = [
                    (each["name"], each["version"]) for each in self._api.served(_CALL_SECONDS)
                ]
                found = [each for each in pool.map(self._version, names) if each is not None]
                if found or self._left() <= 0:
                    return found
                if self._api.arrivals(_CALL_SECONDS) != arrivals:
                    quiet_since = None
                elif quiet_since is None:
                    quiet_since = time.monotonic()
                elif time.monotonic() - quiet_since >= QUIET_SECONDS:
                    return []
                self._check(_POLL_SECONDS)
        finally:
            # After a second Ctrl-C the end of TorchServe ends the threads.
            pool.shutdown(wait=False)

    def _version(self, named: tuple[str, str]) -> Unfinished | None:
        """None as soon as the version is idle, else what it has when the time is over."""
        idle: set[int | str] = set()  # workers that described themselves, by their ids
        processes: set[int] = set()
        asked = 0  # 1 while a description of ours waits in the queue
        quiet_since = time.monotonic()
        while (described := self._api.described(*named, _CALL_SECONDS)) is not None:
            pending = described["jobQueueStatus"]["pendingRequests"] - asked
            ready = {w["pid"] for w in described["workers"] if w["status"] == "READY"}
            if ready != processes:
                # One of the workers that answered may be gone, and another one takes its place.
                processes = ready
                idle.clear()
            if pending > 0:
                idle.clear()
                quiet_since = time.monotonic()
            elif (
                len(idle) >= len(ready)
                or time.monotonic() - quiet_since > described["responseTimeout"]
            ):
                return None
            late = self._left() <= 0
            if pending <= 0:
                try:
                    idle |= self._came_round(*named, ready)
                except requests.Timeout:
                    late, asked = True, 1
            if late:
                return _unfinished(described, max(0, pending), max(0, len(ready) - len(idle)))
            if pending > 0 or len(idle) < len(ready):
                time.sleep(_POLL_SECONDS)
        return None

    def _came_round(self, name: str, version: str, ready: set[int]) -> set[int | str]:
        """The worker that describes itself, behind its work; none where no one can tell which."""
        reply = self._api.fence(name, version, max(0.1, self._left()))
        if reply.ok:
            described: Any = reply.json()[0].get("customizedMetadata")
            worker = worker_that_described(described, ready)
            return set() if worker is None else {worker}
        if reply.status_code != 503 or "ServiceUnavailable" in reply.text:
            return set()  # the worker died, or there is none; else its handler raised
        return set(ready) if len(ready) == 1 else set()

    def _left(self) -> float:
        return self._deadline - time.monotonic()


def _unfinished(described: dict[str, Any], pending: int, busy: int) -> Unfinished | None:
    # Of several workers that do not name themselves, only some may be at work.
    least = pending + (busy if pending or len(described["workers"]) == 1 else min(busy, 1))
    most = pending + busy * int(described["batchSize"])
    name = f"{described['modelName']} {described['modelVersion']}"
    return Unfinished(name, least, most) if most else None
