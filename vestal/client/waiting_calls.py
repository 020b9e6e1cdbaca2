"""Calls that wait for a place in a model's full queue, oldest first.

TorchServe sends the same 503 for a full queue and for a version without workers. Each response of a
version frees a place in its queue, so each response lets one waiting call retry: the client sends
a burst at the server's own rate, with at most one retry per response. Without any response (no
worker, an outage), calls retry as the retry budget allows (`vestal.client.retry_state`).
"""

from __future__ import annotations

import time
from bisect import insort
from collections import defaultdict
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from vestal.client.errors import ClientError
from vestal.client.flow import Flow, Pause

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vestal.client.base import CallContext
    from vestal.client.retry_state import RetryBudget

ServedVersion = tuple[str, str | None]
"""A model and its version; None: the default version."""

POLLS = 50  # checks of the budget per second, by all waiting calls together
POLL = 0.1, 2.0  # minimum and maximum of the seconds between two checks of one call
SILENCE = 2.0
"""Seconds without a response after which the client requests the version's description."""
DESCRIBE_TIMEOUT = 2.0  # time limit of that request, in seconds


class WaitingCall:
    """One waiting call. `rest_until`: until that monotonic time, only a response releases it."""

    __slots__ = ("began", "released", "rest_until")

    def __init__(self, began: float, rest_until: float) -> None:
        from concurrent.futures import Future  # takes 5 ms to import, and most clients never wait

        self.began = began
        self.rest_until = rest_until
        self.released: Future[None] = Future()
        self.released.set_running_or_notify_cancel()  # it cannot be cancelled any more


class WaitingCalls:
    """The waiting calls of each model and version; thread-safe."""

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget
        self._lock = Lock()
        self._calls: defaultdict[ServedVersion, list[WaitingCall]] = defaultdict(list)
        self._last_response: dict[ServedVersion, float] = {}
        self.states: dict[ServedVersion, str] = {}
        """Descriptions of versions that sent no responses, for errors."""

    def enter(self, served: ServedVersion, began: float, rest: float) -> WaitingCall:
        """`began`: when the call began; `rest`: seconds until the budget may release it."""
        call = WaitingCall(began, time.monotonic() + rest)
        with self._lock:
            self._last_response.setdefault(served, time.monotonic())
            insort(self._calls[served], call, key=lambda each: each.began)
        return call

    def record_response(self, served: ServedVersion) -> None:
        """Release the oldest call, since the version sent a response."""
        with self._lock:
            self.states.pop(served, None)
            self._last_response[served] = time.monotonic()
            self._release_oldest(served)

    def _release_oldest(self, served: ServedVersion) -> None:
        if calls := self._calls.get(served):
            calls.pop(0).released.set_result(None)

    def poll_budget(self, served: ServedVersion) -> float:
        """Release the oldest rested call if the budget allows; return the seconds until the next
        check."""
        with self._lock:
            calls = self._calls[served]
            now = time.monotonic()
            rested = next((call for call in calls if call.rest_until <= now), None)
            if rested is not None and self._budget.spend(0) is not None:
                calls.remove(rested)
                rested.released.set_result(None)
            return min(POLL[1], max(POLL[0], len(calls) / POLLS))

    def leave(self, served: ServedVersion, call: WaitingCall) -> None:
        """Remove a call that ended while it waited; if it was released, release the next one."""
        with self._lock:
            if call.released.done():
                self._release_oldest(served)
            else:
                self._calls[served].remove(call)

    def is_silent(self, served: ServedVersion) -> bool:
        """True for one of the waiting calls if the version has sent no response for a while."""
        with self._lock:
            now = time.monotonic()
            if now - self._last_response[served] < SILENCE:
                return False
            self._last_response[served] = now
            return True


def wait_in_line(
    context: CallContext, served: ServedVersion, rest: float, time_left: Callable[[], float]
) -> Flow[None]:
    """Wait for a response of the version, or after `rest` seconds for the client's budget.

    `time_left` raises if the call has no time for another attempt.
    """
    calls = context.retry_state.waiting_calls
    call = calls.enter(served, context.deadline.started, rest)
    seconds = rest
    try:
        while not call.released.done():
            time_left()
            if context.addresses.management is not None and calls.is_silent(served):
                yield from _find_reason(context, served)
            yield Pause(seconds, call.released)
            seconds = calls.poll_budget(served)
    except BaseException:  # out of time, or the call was cancelled
        calls.leave(served, call)
        raise


def _find_reason(context: CallContext, served: ServedVersion) -> Flow[None]:
    from vestal.client.management import describe  # a circular import at the top of the module

    deadline = context.deadline.within(DESCRIBE_TIMEOUT)
    limited = context.without_retries()._replace(deadline=deadline)
    try:
        version = yield from describe(limited, *served)
    except ClientError:
        return  # the error then has the message of the server's 503
    name = f"{version.name} {version.version}"
    if not version.workers:
        state = f'{name} has 0 workers; client.scale("{version.name}", 1) starts one'
    elif not version.ready_workers:
        state = f"none of the {len(version.workers)} workers of {name} is READY; see its log"
    else:
        state = f"{name} has {version.queue_pending} requests in its queue and sends no responses"
    context.retry_state.waiting_calls.states[served] = state
