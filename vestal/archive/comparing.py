"""Compare the predictions and the latency of two archives.

Each archive runs in a child process with the handlers that it contains. Requests alternate between
the two, so that other load on the machine affects both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestal.inprocess.archive_process import ArchiveProcess
from vestal.inprocess.frontend import Frontend, RawRequest
from vestal.inprocess.messages import Response
from vestal.mar.sample import TOLERANCE, by_label, distance_of, find_difference

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
        values = _in_one_format(_value(before), _value(after))
        difference: str | None
        if before.status != after.status:
            self.statuses += 1
            grave, difference = True, f"status is {after.status}, was {before.status}"
        else:
            grave, difference = self._count(*values), _difference(*values, tolerance)
        self.pairs.append(Pair(name, before, after, difference, grave))

    def _count(self, old: Any, new: Any) -> bool:
        """Add the differences; return whether more than numbers differ."""
        labels, texts = False, False
        for key, left, right in _leaves(old, new):
            if _is_number(left) and _is_number(right):
                if key == "probability":
                    self.probability = max(self.probability or 0.0, distance_of(left, right))
                else:
                    self.value = max(self.value or 0.0, distance_of(left, right))
            elif left != right:
                labels = labels or key == "label"
                texts = texts or (
                    key != "label" and isinstance(left, str) and isinstance(right, str)
                )
        self.labels += labels
        self.texts += texts
        return labels or texts


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


def _difference(old: Any, new: Any, tolerance: float) -> str | None:
    if isinstance(old, bytes) or isinstance(new, bytes):
        return None if old == new else "the bytes differ"
    return find_difference(old, new, tolerance)


def _value(response: Response) -> Any:
    """Return the JSON value without request IDs, or the bytes if they are not JSON."""
    try:
        value = response.json()
    except (ValueError, RecursionError):
        return response.body
    several = value.get("predictions") if isinstance(value, dict) else value
    for one in [value, *(several if isinstance(several, list) else [])]:
        if isinstance(one, dict):
            one.pop("request_id", None)
    return value


def _in_one_format(old: Any, new: Any) -> tuple[Any, Any]:
    """Convert two classifications if one is Vestal's and the other TorchServe's.

    The results have the most probable label, and the probabilities of the labels that both have.
    """
    ours = _top(old), _top(new)
    others = [value if _are_probabilities(value) else None for value in (old, new)]
    left, right = (ours[0] or others[0]), (ours[1] or others[1])
    if left is None or right is None or (ours[0] is None) == (ours[1] is None):
        return old, new
    shared = sorted(left.keys() & right.keys())
    converted = [
        {
            "label": max(side, key=side.__getitem__),
            "top": [{"label": name, "probability": side[name]} for name in shared],
        }
        for side in (left, right)
    ]
    return converted[0], converted[1]


def _top(value: Any) -> dict[str, float] | None:
    """The probabilities by label of Vestal's image and text classifiers."""
    top = value.get("top") if isinstance(value, Mapping) else None
    entries = by_label(top) if isinstance(top, list) else None
    if not entries or not all(_is_number(each.get("probability")) for each in entries.values()):
        return None
    return {label: entry["probability"] for label, entry in entries.items()}


def _leaves(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key, old and new of the values that both have; labelled items are paired by label."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        # A single number with the same name on both sides is a value, such as a prediction.
        several = len(old) > 1 or old.keys() != new.keys()
        if several and _are_probabilities(old) and _are_probabilities(new):
            yield "label", max(old, key=old.__getitem__), max(new, key=new.__getitem__)
            for name in old.keys() & new.keys():
                yield "probability", old[name], new[name]
            return
        for name in old.keys() & new.keys():
            if not (name == "probability" and old.get("label") != new.get("label")):
                yield from _leaves(old[name], new[name], str(name))
    elif isinstance(old, list) and isinstance(new, list):
        left_by, right_by = by_label(old), by_label(new)
        if left_by is not None and right_by is not None:
            for label in left_by.keys() & right_by.keys():
                yield from _leaves(left_by[label], right_by[label], key)
        else:
            for left, right in zip(old, new, strict=False):
                yield from _leaves(left, right, key)
    else:
        yield key, old, new


def _are_probabilities(value: Any) -> bool:
    """Whether it is {label: probability, ...}, the format of TorchServe's own classifiers."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(_is_number(one) and 0 <= one <= 1 for one in value.values())
        and sum(value.values()) < 1.01
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
