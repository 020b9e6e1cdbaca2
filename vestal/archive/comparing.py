"""How many answers are other from one archive than from another, and how fast both are.

Each runs in a process of its own with the handlers that it carries; they are asked in turns, so
that what else the machine does falls on both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vestal.inprocess.archive_process import ArchiveProcess
from vestal.inprocess.frontend import Frontend, Sent
from vestal.inprocess.messages import Answer
from vestal.mar.sample import TOLERANCE, by_label, distance_of, matches

MEASURED = 20  # latencies of each side at least

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class Pair:
    """The two answers to one input.

    Attributes:
        difference: the first one as a sentence; None: they are equal.
        grave: status, label or text is another one, not only a number.
    """

    name: str
    before: Answer
    after: Answer
    difference: str | None
    grave: bool = False


@dataclass
class Comparison:
    """Counts are of inputs, latencies in seconds (median; None: not timed).

    Attributes:
        different: pairs that differ by more than the tolerance.
        statuses, labels, texts: in how many inputs one of them is another.
        probability: the largest difference of one label's probability.
        value: the largest difference of any other number, as of a regressor's prediction.
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
        """The grave ones first."""
        found = [pair for pair in self.pairs if pair.difference is not None]
        return sorted(found, key=lambda pair: not pair.grave)


def compare_answers(
    before: Path,
    after: Path,
    sent: Sequence[Sent],
    frontend: Frontend,
    names: tuple[str, str] = ("before", "after"),
    tolerance: float = TOLERANCE,
    *,
    timed: bool = False,
    progress: Progress = lambda *_: None,
) -> Comparison:
    """Asks both unpacked archives for every input.

    Args:
        tolerance: by how much numbers may differ, times the number where that is larger than 1.
        timed: measures the latency too, with at least 20 more predictions of each archive.

    Raises:
        VestalError: one of them does not load, or dies of an input.
    """
    found = Comparison()
    seconds: tuple[list[float], list[float]] = ([], [])
    with (
        ArchiveProcess(before, names[0], frontend) as old,
        ArchiveProcess(after, names[1], frontend) as new,
    ):
        old.ready()
        new.ready()
        for done, each in enumerate(sent):
            progress("comparing predictions", done, len(sent))
            (was, _), (is_, _) = old.ask(each), new.ask(each)
            grave = _count(found, was, is_)
            difference = _difference(was, is_, tolerance)
            found.pairs.append(Pair(each.name, was, is_, difference, grave))
        turns = -(-MEASURED // len(sent)) if sent and timed else 0
        for turn in range(turns):
            for done, each in enumerate(sent):
                progress("timing predictions", turn * len(sent) + done, turns * len(sent))
                sides = [(old, seconds[0]), (new, seconds[1])]
                for side, taken in sides if turn % 2 else reversed(sides):
                    _, passed = side.ask(each)
                    taken += [] if passed is None else [passed]
    found.before_p50, found.after_p50 = (statistics.median(s) if s else None for s in seconds)
    return found


def _difference(before: Answer, after: Answer, tolerance: float) -> str | None:
    if before.status != after.status:
        return f"status is {after.status}, was {before.status}"
    old, new = _value(before), _value(after)
    if isinstance(old, bytes) or isinstance(new, bytes):
        return None if old == new else "other bytes"
    return matches(old, new, tolerance)


def _count(found: Comparison, before: Answer, after: Answer) -> bool:
    """Adds what differs; True where it is more than numbers."""
    if before.status != after.status:
        found.statuses += 1
        return True
    labels, texts = False, False
    for key, old, new in _leaves(_value(before), _value(after)):
        if _is_number(old) and _is_number(new):
            if key == "probability":
                found.probability = max(found.probability or 0.0, distance_of(old, new))
            else:
                found.value = max(found.value or 0.0, distance_of(old, new))
        elif old != new:
            labels = labels or key == "label"
            texts = texts or (key != "label" and isinstance(old, str) and isinstance(new, str))
    found.labels += labels
    found.texts += texts
    return labels or texts


def _value(answer: Answer) -> Any:
    """JSON without what is another each time; other bytes as they are."""
    try:
        said = answer.json()
    except (ValueError, RecursionError):
        return answer.body
    several = said.get("predictions") if isinstance(said, dict) else said
    for one in [said, *(several if isinstance(several, list) else [])]:
        if isinstance(one, dict):
            one.pop("request_id", None)
    return said


def _leaves(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The values that stand in both, by place; of labelled ones by label."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if _are_shares(old, new):
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


def _are_shares(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether both are {label: probability, ...}, as TorchServe's own classifiers answer.

    One number of one name is a value, like a regressor's.
    """
    return (len(old) > 1 or old.keys() != new.keys()) and all(
        side
        and all(_is_number(share) and 0 <= share <= 1 for share in side.values())
        and sum(side.values()) < 1.01
        for side in (old, new)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
