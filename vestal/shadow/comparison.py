"""Compare pairs of responses, and sum up what differs."""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from vestal.mar.answers import Answer, Difference, compare_answers, larger
from vestal.shadow.digests import Digest

EXAMPLES = 20
MOST_CHANGES = 1000
"""Different changes of a label that are counted one by one."""


@dataclass(frozen=True)
class Example:
    """A pair that differs. `at`: when the live response was made, in seconds since 1970."""

    id: str
    difference: str
    at: float


@dataclass
class SideSummary:
    """Responses of one side that were compared: `rejected` have a 4xx status, `failed` a 5xx."""

    rejected: int = 0
    failed: int = 0
    seconds: array[float] = field(default_factory=lambda: array("d"))

    def add(self, digest: Digest) -> None:
        self.rejected += 400 <= digest.status < 500
        self.failed += digest.status >= 500
        self.seconds.append(digest.seconds)

    def percentile(self, percent: float) -> float | None:
        """Return a percentile of the time in the handler, in seconds; None without responses."""
        return float(np.percentile(self.seconds, percent)) if self.seconds else None


@dataclass
class Comparison:
    """The responses of one live version and those of the shadow version to the same requests.

    Attributes:
        equal: pairs that differ by at most the tolerance.
        statuses, labels, texts: pairs that differ in it; `texts` includes what is not JSON.
        probability, value: see `vestal.mar.answers.Difference`; None if no number differs.
        changes: number of changes of a label, by the label before and after; `other_changes`: those
            that are not among the first MOST_CHANGES.
    """

    version: str
    compared: int = 0
    equal: int = 0
    statuses: int = 0
    labels: int = 0
    texts: int = 0
    probability: float | None = None
    value: float | None = None
    changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    other_changes: int = 0
    live: SideSummary = field(default_factory=SideSummary)
    shadow: SideSummary = field(default_factory=SideSummary)
    _examples: list[tuple[bool, float, int, Example]] = field(default_factory=list)

    @property
    def examples(self) -> list[Example]:
        """Pairs that differ: those in status, label or text first, then the largest distances."""
        return [example for *_, example in sorted(self._examples, reverse=True)]

    def add(self, live: Digest, shadow: Digest, tolerance: float) -> None:
        """Compare a pair."""
        found = compare_digests(live, shadow, tolerance)
        self.compared += 1
        self.equal += found.difference is None
        self.statuses += found.status
        self.labels += bool(found.labels)
        self.texts += found.text
        self.probability = larger(self.probability, found.probability)
        self.value = larger(self.value, found.value)
        for before, after in found.labels:
            change = (str(before), str(after))
            if change in self.changes or len(self.changes) < MOST_CHANGES:
                self.changes[change] += 1
            else:
                self.other_changes += 1
        self.live.add(live)
        self.shadow.add(shadow)
        if found.difference is not None:
            distance = larger(found.probability, found.value) or 0.0
            example = Example(live.id, found.difference, live.at)
            # Older pairs come first among equals, and the counter makes every entry different.
            entry = (found.grave, distance, -self.compared, example)
            if len(self._examples) < EXAMPLES:
                heapq.heappush(self._examples, entry)
            else:
                heapq.heappushpop(self._examples, entry)


def compare_digests(live: Digest, shadow: Digest, tolerance: float) -> Difference:
    """Compare two responses; of errors with the same status, nothing else."""
    if live.status != shadow.status:
        return Difference(f"status is {shadow.status}, was {live.status}", status=True)
    if live.status >= 400 or (live.body, live.sha256) == (shadow.body, shadow.sha256):
        return Difference(None)
    if live.body is None or shadow.body is None:
        return Difference("the bytes differ", text=True)
    return compare_answers(_answer(live), _answer(shadow), tolerance)


def _answer(digest: Digest) -> Answer:
    return Answer.of(digest.status, (digest.body or "").encode("utf-8", "surrogatepass"))
