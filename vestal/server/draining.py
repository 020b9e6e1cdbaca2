"""Stop without lost requests: wait until no version has a request in progress.

A version is idle when its queue is empty and each of its workers has sent its description, which a
worker does after its current batch. The server is idle when all versions are idle and no request
has arrived meanwhile, because new requests are still served. `pendingRequests` is not sufficient:
it includes neither a worker's batch nor the batch that TorchServe is collecting.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vestal.client import (
    Client,
    DeadlineExceeded,
    ModelDescription,
    ModelInfo,
    NotFound,
    Overloaded,
    ServerFailed,
)
from vestal.client.draining import worker_that_described

QUIET_SECONDS = 0.3
"""Time without new requests; requests on the network or not yet read by TorchServe arrive in it."""
_POLL_SECONDS = 0.05
_REQUEST_COUNTS = re.compile(r"^ts_inference_requests_total\{.*\} ([\d.eE+]+)$", re.MULTILINE)
_CALL_SECONDS = 5.0


@dataclass(frozen=True)
class Unfinished:
    """Number of requests to a version without a response, from `least` to `most`."""

    name: str
    least: int
    most: int


def format_unfinished(unfinished: list[Unfinished]) -> str:
    """Format as `3 requests (mnist 1.0: 3)`, or `1 to 8` if the size of a batch is unknown."""

    def number(least: int, most: int) -> str:
        return str(most) if least == most else f"{least} to {most}"

    total = number(sum(each.least for each in unfinished), sum(each.most for each in unfinished))
    by_version = ", ".join(f"{each.name}: {number(each.least, each.most)}" for each in unfinished)
    return f"{total} request{'' if total == '1' else 's'} ({by_version})"


class Draining:
    """Waits until a server is idle.

    Args:
        check: raises an error if the server ends within this many seconds.
        seconds: time limit.
    """

    def __init__(self, client: Client, check: Callable[[float], None], seconds: float) -> None:
        self._client, self._check = client, check
        self._deadline = time.monotonic() + seconds

    def wait(self) -> list[Unfinished]:
        """Return [] as soon as the server is idle, or the unfinished requests at the time limit.

        Raises:
            ClientError: a call of TorchServe's API failed.
        """
        pool = ThreadPoolExecutor(thread_name_prefix="vestal-drain")
        quiet_since: float | None = None
        try:
            while True:
                before = self._request_count()
                versions = self._client.models(timeout=_CALL_SECONDS)
                results = pool.map(self._wait_for_version, versions)
                unfinished = [each for each in results if each is not None]
                if unfinished or self._remaining() <= 0:
                    return unfinished
                if self._request_count() != before:
                    quiet_since = None
                elif quiet_since is None:
                    quiet_since = time.monotonic()
                elif time.monotonic() - quiet_since >= QUIET_SECONDS:
                    return []
                self._check(_POLL_SECONDS)
        finally:
            # After a second Ctrl-C, the threads end when TorchServe does.
            pool.shutdown(wait=False)

    def _request_count(self) -> float:
        """Return the number of prediction requests since TorchServe started."""
        page = self._client.metrics_text(timeout=_CALL_SECONDS)
        return sum(map(float, _REQUEST_COUNTS.findall(page)))

    def _wait_for_version(self, version: ModelInfo) -> Unfinished | None:
        """Return None when the version is idle, or its unfinished requests at the time limit."""
        idle: set[int | str] = set()  # ids of the workers that have sent their description
        processes: set[int] = set()
        own_requests = 0  # 1 if our request for a description is in the queue
        quiet_since = time.monotonic()
        while (description := self._describe(version)) is not None:
            pending = description.queue_pending - own_requests
            ready = {worker.pid for worker in description.ready_workers if worker.pid is not None}
            if ready != processes:  # a worker that was idle may have been replaced
                processes = ready
                idle.clear()
            if pending > 0:
                idle.clear()
                quiet_since = time.monotonic()
            elif (
                len(idle) >= len(ready)
                or time.monotonic() - quiet_since > description.response_timeout
            ):
                return None
            timed_out = self._remaining() <= 0
            if pending <= 0:
                try:
                    idle |= self._find_idle_worker(version, ready)
                except DeadlineExceeded:
                    timed_out, own_requests = True, 1
            if timed_out:
                busy = max(0, len(ready) - len(idle))
                return _count_unfinished(description, max(0, pending), busy)
            if pending > 0 or len(idle) < len(ready):
                time.sleep(_POLL_SECONDS)
        return None

    def _describe(self, version: ModelInfo) -> ModelDescription | None:
        try:
            return self._client.describe(version.name, version.version, timeout=_CALL_SECONDS)
        except NotFound:
            return None

    def _find_idle_worker(self, version: ModelInfo, ready: set[int]) -> set[int | str]:
        """Return the worker that sends its description; empty if it cannot be identified."""
        try:
            described = self._client.describe(
                version.name,
                version.version,
                customized=True,
                timeout=max(0.1, self._remaining()),
            )
        except (Overloaded, NotFound):
            return set()
        except ServerFailed as error:
            # 503: the handler has no description. Otherwise, the worker died.
            return set(ready) if error.status == 503 and len(ready) == 1 else set()
        worker = worker_that_described(described.customized, ready)
        return set() if worker is None else {worker}

    def _remaining(self) -> float:
        return self._deadline - time.monotonic()


def _count_unfinished(description: ModelDescription, pending: int, busy: int) -> Unfinished | None:
    # If the workers do not send an id, it is unknown how many of them are busy.
    known = pending or len(description.workers) == 1
    least = pending + (busy if known else min(busy, 1))
    most = pending + busy * description.batch_size
    return Unfinished(f"{description.name} {description.version}", least, most) if most else None
