"""The calls that wait for a place in a model's full queue, oldest first.

TorchServe answers 503 with one and the same text where a version's queue is full and where it has
no worker; only its other answers tell the two apart. Each answer of a version frees a place in its
queue, so each lets one waiting call go: a burst is then served at the server's own rate, with at
most one retry for each answer. While no answer comes (no worker, an outage), calls go only as the
budget of retries allows (`vestal.client.shared`).
"""

from __future__ import annotations

import time
from bisect import insort
from collections import defaultdict
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from vestal.client.errors import ClientError
from vestal.client.steps import Steps, Wait

if TYPE_CHECKING:
    from concurrent.futures import Future

    from vestal.client.context import Context
    from vestal.client.shared import Budget

Served = tuple[str, str | None]
"""A model and its version; None: the default version."""

LOOKS = 50
"""How many of the waiting calls look at the budget each second, all together."""
LOOK = 0.1, 2.0
"""Seconds between two looks of one call: at least, at most."""
SILENCE = 2.0
"""Seconds without an answer after which the management API is asked why; so often at most."""
DESCRIBED_WITHIN = 2.0
"""Seconds that it has for that."""


class Turn:
    """One waiting call. `rest_until`: before that moment only an answer lets it go."""

    __slots__ = ("began", "go", "rest_until")

    def __init__(self, began: float, rest_until: float) -> None:
        from concurrent.futures import Future  # costs 5 ms, and most clients never wait

        self.began = began
        self.rest_until = rest_until
        self.go: Future[None] = Future()
        self.go.set_running_or_notify_cancel()  # from here on nobody can cancel it


class Lines:
    """One line for each model and version; thread-safe."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._lock = Lock()
        self._lines: defaultdict[Served, list[Turn]] = defaultdict(list)
        self._heard: dict[Served, float] = {}
        self.states: dict[Served, str] = {}
        """What the management API reported of versions that gave no answers."""

    def enter(self, served: Served, began: float, rest: float) -> Turn:
        """`began`: when the call began; `rest`: seconds until it may go without an answer."""
        turn = Turn(began, time.monotonic() + rest)
        with self._lock:
            self._heard.setdefault(served, time.monotonic())
            insort(self._lines[served], turn, key=lambda each: each.began)
        return turn

    def answered(self, served: Served) -> None:
        """The version gave an answer: the oldest call goes."""
        with self._lock:
            self.states.pop(served, None)
            self._heard[served] = time.monotonic()
            self._let_go(served)

    def _let_go(self, served: Served) -> None:
        if line := self._lines.get(served):
            line.pop(0).go.set_result(None)

    def look(self, served: Served) -> float:
        """Lets the oldest rested call go if the budget allows it; seconds until the next look."""
        with self._lock:
            line = self._lines[served]
            now = time.monotonic()
            rested = next((turn for turn in line if turn.rest_until <= now), None)
            if rested is not None and self._budget.spend(0) is not None:
                line.remove(rested)
                rested.go.set_result(None)
            return min(LOOK[1], max(LOOK[0], len(line) / LOOKS))

    def leave(self, served: Served, turn: Turn) -> None:
        """The call ended while it waited; if it was its turn, the next call goes."""
        with self._lock:
            if turn.go.done():
                self._let_go(served)
            else:
                self._lines[served].remove(turn)

    def is_silent(self, served: Served) -> bool:
        """True for one of the waiting calls when the version has given no answer for a while."""
        with self._lock:
            now = time.monotonic()
            if now - self._heard[served] < SILENCE:
                return False
            self._heard[served] = now
            return True


def wait_in_line(
    context: Context, served: Served, rest: float, time_left: Callable[[], float]
) -> Steps[None]:
    """Waits for an answer of the version, or after `rest` seconds for the client's budget.

    `time_left` raises where the call has no time for another attempt.
    """
    lines = context.shared.lines
    turn = lines.enter(served, context.deadline.started, rest)
    seconds = rest
    try:
        while not turn.go.done():
            time_left()
            if context.addresses.management is not None and lines.is_silent(served):
                yield from _find_out(context, served)
            yield Wait(turn.go, seconds)
            seconds = lines.look(served)
    except BaseException:  # too late, or the call was cancelled
        lines.leave(served, turn)
        raise


def _find_out(context: Context, served: Served) -> Steps[None]:
    from vestal.client.management import describe  # which sends its requests through `retry`

    limited = context.impatient()._replace(deadline=context.deadline.within(DESCRIBED_WITHIN))
    try:
        version = yield from describe(limited, *served)
    except ClientError:
        return  # the server's own text has to do
    name = f"{version.name} {version.version}"
    if not version.workers:
        state = f'{name} has 0 workers; client.scale("{version.name}", 1) starts one'
    elif not version.ready_workers:
        state = f"none of the {len(version.workers)} workers of {name} is READY; see its log"
    else:
        state = f"{name} has {version.queue_pending} requests in its queue and gives no answers"
    context.shared.lines.states[served] = state
