"""The report on a shadow version: its responses beside those of the live version."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.errors import UsageError, VestalError
from vestal.shadow.comparison import Comparison, SideSummary
from vestal.shadow.digests import DigestFiles
from vestal.shadow.joining import join

REMOVED = "removed to make space while the report was made"

Progress = Callable[[int, int], None]
"""Called with the number of compared pairs, and the number of all."""


@dataclass(frozen=True)
class Report:
    """The result of a comparison.

    Attributes:
        comparisons: one for each live version, most pairs first.
        live, shadow: number of responses that were not compared, by the reason.
        damaged: lines that could not be read: a worker was killed, or the disk was full.
        began, ended: times of the first and the last compared live response; None without pairs.
    """

    model: str
    version: str
    comparisons: list[Comparison]
    live: Mapping[str, int]
    shadow: Mapping[str, int]
    damaged: int
    began: float | None = None
    ended: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "model": self.model,
            "shadow": self.version,
            "from": self.began,
            "to": self.ended,
            "comparisons": [_facts(each) for each in self.comparisons],
            "not_compared": {"live": dict(self.live), "shadow": dict(self.shadow)},
            "damaged_lines": self.damaged,
        }


def make_report(
    root: Path,
    model: str,
    version: str | None,
    tolerance: float,
    *,
    progress: Progress = lambda *_: None,
) -> Report:
    """Compare all responses of a shadow version whose digests are kept.

    Args:
        root: folder of all digests (`Project.shadow`).
        version: of the shadow; None: the last one.

    Raises:
        VestalError: no digests.
        UsageError: no digests of this version.
    """
    files = DigestFiles(root, model)
    chosen = version if version is not None else files.last_shadow()
    if chosen is None:
        raise VestalError(
            f"{root} has no responses of a shadow version of {model}. Set `shadow:` for it in "
            "serving.yaml, apply it, and send requests through the gateway"
        )
    live, shadow = files.scan(chosen)
    if not live.keys and not shadow.keys:
        known = ", ".join(files.versions) or "none"
        raise UsageError(
            f"{root} has no responses that were compared with {model} {chosen}; it has responses "
            f"of version {known}"
        )
    joined = join(live, shadow, time.time())
    comparisons: dict[str, Comparison] = {}
    times, removed = array("d"), 0
    for done, (left, right) in enumerate(joined.pairs.tolist()):
        progress(done, len(joined.pairs))
        ours, copy = files.read(left), files.read(right)
        if ours is None or copy is None or ours.id != copy.id:
            removed += 1
            continue
        name = files.version_at(left)
        comparison = comparisons.setdefault(name, Comparison(name))
        comparison.add(ours, copy, tolerance)
        times.append(ours.at)
    lost = {REMOVED: removed} if removed else {}
    return Report(
        model,
        chosen,
        sorted(comparisons.values(), key=lambda each: -each.compared),
        {**joined.live, **lost},
        {**joined.shadow, **lost},
        files.damaged,
        min(times, default=None),
        max(times, default=None),
    )


def _facts(found: Comparison) -> dict[str, Any]:
    changes = [
        {"before": before, "after": after, "count": count}
        for (before, after), count in found.changes.most_common()
    ]
    return {
        "live": found.version,
        "compared": found.compared,
        "equal": found.equal,
        "different": found.compared - found.equal,
        "statuses": found.statuses,
        "labels": found.labels,
        "texts": found.texts,
        "largest_probability_difference": _number(found.probability),
        "largest_value_difference": _number(found.value),
        "label_changes": changes,
        "other_label_changes": found.other_changes,
        "sides": {"live": _side_facts(found.live), "shadow": _side_facts(found.shadow)},
        "examples": [vars(example) for example in found.examples],
    }


def _side_facts(side: SideSummary) -> dict[str, Any]:
    return {
        "rejected": side.rejected,
        "failed": side.failed,
        "p50_seconds": side.percentile(50),
        "p99_seconds": side.percentile(99),
    }


def _number(value: float | None) -> float | str | None:
    """JSON has no infinity, which is the distance of a number from NaN."""
    return value if value is None or math.isfinite(value) else "infinity"
