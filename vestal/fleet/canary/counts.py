"""Requests, failures and response times of a version, as the gateway counts them.

Envoy has a cluster for each version, and per cluster (statistics of its router, in Envoy's
documentation under "Cluster manager: statistics"):

- `upstream_rq_completed`: responses, also those that Envoy itself made because the version did not
  respond;
- `upstream_rq_5xx`: those of them with a status of 500 to 599;
- `upstream_rq_time`: the time of each response in whole milliseconds, in a histogram whose bins
  are one unit of the second decimal digit wide (libcircllhist).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from pydantic import BaseModel, Field

from vestal.errors import VestalError
from vestal.fleet.settling import binomial_tail
from vestal.gateway.clusters import cluster_name, statistics_name

Version = tuple[str, str]
"""Name and version of a model."""


class Times(BaseModel):
    """Response times. `bins`: number of responses by the lower bound of their bin, in ms."""

    bins: dict[float, int] = Field(default_factory=dict)

    @property
    def count(self) -> int:
        return sum(self.bins.values())

    def quantile(self, q: float) -> float:
        """Return the upper bound of the bin with this quantile, in ms. Raises if it is empty."""
        return self._ordered(max(1, math.ceil(q * self.count)))

    def upper_quantile(self, q: float, risk: float) -> float | None:
        """Return a time that is below the true quantile with a probability of at most `risk`.

        It is an order statistic (David and Nagaraja, Order Statistics, 2003, 7.1): the r-th time is
        below the quantile only if r of n times are, whose number is binomial. None: so few
        responses have no such limit.
        """
        count = self.count
        low, high = math.floor(q * count), count + 1
        while low + 1 < high:
            middle = (low + high) // 2
            sufficient = binomial_tail(middle, count, q) <= risk
            low, high = (low, middle) if sufficient else (middle, high)
        return None if high > count else self._ordered(high)

    def above(self, milliseconds: float) -> int:
        """Return how many responses certainly took longer."""
        return sum(count for lower, count in self.bins.items() if lower >= milliseconds)

    def _ordered(self, rank: int) -> float:
        below = 0
        for lower in sorted(self.bins):
            below += self.bins[lower]
            if below >= rank:
                return lower + _width(lower)
        raise ValueError("there are no response times")


def _width(lower: float) -> float:
    """The width of a bin; Envoy rounds times down to whole milliseconds."""
    return max(1.0, 10.0 ** (math.floor(math.log10(lower)) - 1)) if lower >= 1 else 1.0


class Counts(BaseModel):
    """Requests of one version, since the gateway was started or in some time."""

    requests: int = 0
    failures: int = 0
    times: Times = Field(default_factory=Times)

    def __add__(self, other: Counts) -> Counts:
        bins = Counter(self.times.bins)
        bins.update(other.times.bins)
        return Counts(
            requests=self.requests + other.requests,
            failures=self.failures + other.failures,
            times=Times(bins=dict(bins)),
        )

    def since(self, earlier: Counts) -> Counts:
        """Return the difference; after a restart of the gateway, which begins at 0, these."""
        bins = self.times.bins
        before = earlier.times.bins
        smaller = (
            self.requests < earlier.requests
            or self.failures < earlier.failures
            or any(bins.get(lower, 0) < count for lower, count in before.items())
        )
        if smaller:
            return self
        new = {lower: count - before.get(lower, 0) for lower, count in bins.items()}
        return Counts(
            requests=self.requests - earlier.requests,
            failures=self.failures - earlier.failures,
            times=Times(bins={lower: count for lower, count in new.items() if count}),
        )


Statistics = Callable[[Sequence[Version]], Mapping[Version, Counts]]
"""Returns the cumulative counts of some versions. Raises VestalError."""


def gateway_statistics(get: Callable[[str], str]) -> Statistics:
    """Read the statistics from Envoy; `get` returns the body at a path of its admin interface."""

    def read(versions: Sequence[Version]) -> Mapping[Version, Counts]:
        try:
            return read_statistics(get(statistics_path(versions)), versions)
        except (OSError, ValueError) as error:
            raise VestalError(f"the gateway's statistics cannot be read: {error}") from None

    return read


def statistics_path(versions: Sequence[Version]) -> str:
    """Return the path in Envoy's admin interface with the statistics of some versions."""
    names = "|".join(re.escape(_statistics(version)) for version in versions)
    names = f"^({names})(completed|5xx|time)$"
    return f"/stats?format=json&histogram_buckets=detailed&filter={quote(names, safe='')}"


def read_statistics(body: str, versions: Sequence[Version]) -> dict[Version, Counts]:
    """Read the statistics of some versions; a version without requests has empty counts.

    Raises:
        ValueError: it is not Envoy's JSON.
    """
    numbers: dict[str, int] = {}
    times: dict[str, Times] = {}
    try:
        for each in json.loads(body)["stats"]:
            if "histograms" not in each:
                numbers[each["name"]] = int(each["value"])
                continue
            for histogram in each["histograms"].get("details", ()):
                bins = {float(b["lower_bound"]): int(b["count"]) for b in histogram["totals"]}
                times[histogram["name"]] = Times(bins=bins)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the gateway's statistics have an unknown form: {error!r}") from None
    found = {}
    for version in versions:
        prefix = _statistics(version)
        found[version] = Counts(
            requests=numbers.get(f"{prefix}completed", 0),
            failures=numbers.get(f"{prefix}5xx", 0),
            times=times.get(f"{prefix}time", Times()),
        )
    return found


def _statistics(version: Version) -> str:
    """The beginning of the names of a version's statistics."""
    return f"cluster.{statistics_name(cluster_name(*version))}.upstream_rq_"
