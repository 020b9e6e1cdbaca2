"""Compare the predictions and the latency of two archives.

Each archive runs in a child process with the handlers that it contains. Requests alternate between
the two, so that other load on the machine affects both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vestal.inprocess.archive_process import ArchiveProcess
from vestal.inprocess.frontend import Frontend, RawRequest
from vestal.inprocess.messages import Response
from vestal.mar.answers import Answer, compare_answers, larger
from vestal.mar.sample import TOLERANCE

MEASURED = 20  # the least number of latencies per archive

Progress = Callable[[str, int, int], None]
"""Called with the current step, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Pair:
    """The two responses to one input.

    Attributes:
        difference: a sentence about the first difference; None: they are equal.
        grave: status, label or text differs, not only a number.
    """

    name: str
    before: Response
    after: Response
    difference: str | None
    grave: bool = False


@dataclass
class Comparison:
    """Counts are of inputs; latencies are medians in seconds, None if not measured.

    Attributes:
        statuses, labels, texts: number of inputs for which one of them differs.
        probability: the largest difference between probabilities of the same label.
        value: the largest difference between other numbers, such as a regressor's predictions.
    """

    pairs: list[Pair] = field(default_factory=list)
    statuses: int = 0
    labels: int = 0
    texts: int = 0
    probability: float | None = None
    value: float | None = None
    before_p50: float | None = None
    after_p50: float | None = None

    @property
    def different(self) -> list[Pair]:
        """Pairs that differ by more than the tolerance, the grave ones first."""
        found = [pair for pair in self.pairs if pair.difference is not None]
        return sorted(found, key=lambda pair: not pair.grave)

    def add(self, name: str, before: Response, after: Response, tolerance: float) -> None:
        """Compare the responses to one input."""
        found = compare_answers(
            Answer.of(before.status, before.body), Answer.of(after.status, after.body), tolerance
        )
        self.statuses += found.status
        self.labels += bool(found.labels)
        self.texts += found.text
        self.probability = larger(self.probability, found.probability)
        self.value = larger(self.value, found.value)
        self.pairs.append(Pair(name, before, after, found.difference, found.grave))


def compare_predictions(
    before: Path,
    after: Path,
    requests: Sequence[RawRequest],
    frontend: Frontend,
    names: tuple[str, str] = ("before", "after"),
    tolerance: float = TOLERANCE,
    *,
    timed: bool = False,
    progress: Progress = lambda *_: None,
) -> Comparison:
    """Send every request to both unpacked archives and compare the responses.

    Args:
        tolerance: largest accepted difference of two numbers, relative for numbers above 1.
        timed: also measure the latency, with at least 20 more predictions of each archive.

    Raises:
        VestalError: an archive does not load, or its process dies or takes too long.
    """
    found = Comparison()
    with (
        ArchiveProcess(before, names[0], frontend) as old,
        ArchiveProcess(after, names[1], frontend) as new,
    ):
        old.wait_until_loaded()
        new.wait_until_loaded()
        for done, request in enumerate(requests):
            progress("comparing predictions", done, len(requests))
            (left, _), (right, _) = old.predict(request), new.predict(request)
            found.add(request.name, left, right, tolerance)
        if requests and timed:
            found.before_p50, found.after_p50 = _latencies(old, new, requests, progress)
    return found


def _latencies(
    old: ArchiveProcess, new: ArchiveProcess, requests: Sequence[RawRequest], progress: Progress
) -> list[float | None]:
    """Median seconds in each handler; None if no request reached it."""
    seconds: tuple[list[float], list[float]] = ([], [])
    rounds = -(-MEASURED // len(requests))
    for number in range(rounds):
        for done, request in enumerate(requests):
            progress("timing predictions", number * len(requests) + done, rounds * len(requests))
            sides = [(old, seconds[0]), (new, seconds[1])]
            for side, taken in sides if number % 2 else reversed(sides):
                _, passed = side.predict(request)
                taken += [] if passed is None else [passed]
    return [statistics.median(taken) if taken else None for taken in seconds]
