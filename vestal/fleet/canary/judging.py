"""Judge a canary by the traffic of its present step.

- Errors: the rate of responses with 5xx is tested against `max_error_rate` (`evidence`).
- Time: a p99 is too high if more than 1 % of the responses take longer than `max_p99_ratio` times
  the p99 of the default version. So it is the same test of a rate, that of slow responses, against
  1 %. The p99 of the default version is uncertain, too: to prove that the canary is slow, its upper
  confidence limit is used.

A version that gets fewer requests than another waits longer for a full batch, and one that gets
more waits longer in the queue. So with less than half of the requests, `max_batch_delay` is
allowed in addition. With more than half, the canary is compared with the times that the default
version had in an earlier step: in the one in which its p99 was highest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vestal.fleet.canary.counts import Counts, Times
from vestal.fleet.canary.evidence import is_above, is_below, requests_needed

BACK_RISK = 0.001
"""Probability that a bound is called broken although it is kept, for each test of a step."""
ON_RISK = 0.05
"""Probability that a bound is called kept although it is broken."""
_SLOW = 0.01
_LIMIT_RISK = 0.01
MIN_DEFAULT_TIMES = 459
"""Fewer response times have no upper limit of their p99: 0.99 ** 459 < `_LIMIT_RISK`."""
MIN_CANARY_TIMES = 100
"""Fewer may all be the first ones of new workers."""


class Rules(BaseModel):
    """How a canary goes on.

    `steps`: percentages of the requests, in order; the last one is 100. `every`: shortest time of a
    step in seconds. `max_error_rate`: highest fraction of responses with 5xx. `max_p99_ratio`:
    highest ratio of its p99 to that of the default version; None: any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: tuple[float, ...] = (1, 10, 50, 100)
    every: Annotated[float, Field(gt=0)] = 60.0
    max_error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.005
    max_p99_ratio: Annotated[float, Field(gt=1)] | None = 1.2

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        ascending = all(low < high for low, high in pairwise((0.0, *self.steps)))
        if not ascending or self.steps[-1:] != (100,):
            raise ValueError("the steps are increasing percentages of which the last one is 100")
        if len(self.steps) == 1 and self.max_p99_ratio is not None:
            raise ValueError("at 100 % there is no other version to compare the p99 with")
        return self


@dataclass(frozen=True)
class Observation:
    """What has happened since the last observation.

    Attributes:
        seconds: time since then.
        unready: whether the canary had no READY worker, although the default version had.
        delay: the canary's `max_batch_delay` in ms if it has batches, else 0.
    """

    seconds: float
    canary: Counts
    default: Counts
    unready: bool = False
    delay: float = 0.0


@dataclass
class Traffic:
    """The traffic of both versions in some time; `unready`: seconds without a READY canary."""

    seconds: float = 0.0
    canary: Counts = field(default_factory=Counts)
    default: Counts = field(default_factory=Counts)
    unready: float = 0.0

    def add(self, seen: Observation) -> None:
        self.seconds += seen.seconds
        self.canary += seen.canary
        self.default += seen.default
        self.unready += seen.seconds if seen.unready else 0.0


@dataclass
class Watch:
    """The traffic of a step, and of its present interval of `every` seconds.

    The interval shows a change in a step that has been long: a canary may be paused for hours.
    """

    every: float
    step: Traffic = field(default_factory=Traffic)
    interval: Traffic = field(default_factory=Traffic)
    delay: float = 0.0
    unready: bool = False

    def add(self, seen: Observation) -> None:
        if self.interval.seconds >= self.every:
            self.interval = Traffic()
        self.step.add(seen)
        self.interval.add(seen)
        self.delay, self.unready = seen.delay, seen.unready


@dataclass(frozen=True)
class Verdict:
    """`worse`: a bound is certainly broken. `good`: the step is done. `wait`: neither, yet."""

    decision: Literal["wait", "good", "worse"]
    reason: str


def judge(watch: Watch, rules: Rules, weight: float, slowest: Times | None) -> Verdict:
    """Judge a canary.

    Args:
        weight: its percentage of the requests.
        slowest: times of the default version in the earlier step in which they were longest; None
            in the first step.
    """
    step = watch.step
    for traffic in (step, watch.interval):
        reason = _errors(traffic, rules) or _slowness(traffic, watch, rules, weight, slowest)
        if reason is not None:
            now = ". None of its workers is READY now" if watch.unready else ""
            return Verdict("worse", f"{reason}{now}")
    unready = watch.interval.unready
    if unready > rules.every / 2:
        seconds = f"{unready:.0f} of {watch.interval.seconds:.0f} s"
        return Verdict("worse", f"none of its workers was READY for {seconds}")
    lacking = [
        lack
        for lack in (_lack_of_requests(step, rules), _lack_of_times(watch, rules, weight, slowest))
        if lack is not None
    ]
    if lacking:
        return Verdict("wait", "; ".join(lacking))
    if step.seconds < rules.every:
        return Verdict("wait", f"{rules.every - step.seconds:.0f} s are left")
    return Verdict("good", _numbers(watch, weight, slowest))


def percent(fraction: float) -> str:
    """Format a fraction, `0.5%`."""
    return f"{fraction * 100:.6g}%"


def _errors(traffic: Traffic, rules: Rules) -> str | None:
    seen, other = traffic.canary, traffic.default
    if not is_above(seen.failures, seen.requests, rules.max_error_rate, BACK_RISK):
        return None
    reason = (
        f"{seen.failures:,} of {seen.requests:,} requests failed "
        f"({seen.failures / seen.requests:.2%}); allowed: {percent(rules.max_error_rate)}"
    )
    if other.requests:
        reason += f". Of the default version, {other.failures:,} of {other.requests:,} failed"
    return reason


def _baseline(traffic: Traffic, weight: float, slowest: Times | None) -> Times:
    """The times of the default version to compare with."""
    return slowest if slowest is not None and weight > 50 else traffic.default.times


def is_slower(times: Times, others: Times) -> bool:
    """Whether enough times are known, and their p99 is higher."""
    if times.count < MIN_DEFAULT_TIMES:
        return False
    return not others.count or times.quantile(1 - _SLOW) > others.quantile(1 - _SLOW)


def _threshold(p99: float, watch: Watch, rules: Rules, weight: float) -> float:
    """The time above which a response is slow, in ms."""
    assert rules.max_p99_ratio is not None
    return p99 * rules.max_p99_ratio + (watch.delay if weight < 50 else 0.0)


def _slowness(
    traffic: Traffic, watch: Watch, rules: Rules, weight: float, slowest: Times | None
) -> str | None:
    seen, before = traffic.canary.times, _baseline(traffic, weight, slowest)
    limit = before.upper_quantile(1 - _SLOW, _LIMIT_RISK)
    if rules.max_p99_ratio is None or limit is None or seen.count < MIN_CANARY_TIMES:
        return None
    slow = _threshold(limit, watch, rules, weight)
    if not is_above(seen.above(slow), seen.count, _SLOW, BACK_RISK):
        return None
    own, other = seen.quantile(1 - _SLOW), before.quantile(1 - _SLOW)
    return (
        f"its p99 is {own:.0f} ms, {own / other:.1f} times that of the default version "
        f"({other:.0f} ms); allowed: {rules.max_p99_ratio:g} times. {seen.above(slow):,} of "
        f"{seen.count:,} responses took longer than {slow:.0f} ms"
    )


def _lack_of_requests(step: Traffic, rules: Rules) -> str | None:
    seen = step.canary
    if is_below(seen.failures, seen.requests, rules.max_error_rate, ON_RISK):
        return None
    needed = requests_needed(seen.failures, rules.max_error_rate, ON_RISK)
    failed = f"{seen.failures:,} failed" if seen.failures else "none failed"
    return (
        f"{seen.requests:,} of {needed:,} requests for an error rate below "
        f"{percent(rules.max_error_rate)} ({failed})"
    )


def _lack_of_times(watch: Watch, rules: Rules, weight: float, slowest: Times | None) -> str | None:
    if rules.max_p99_ratio is None:
        return None
    seen, before = watch.step.canary.times, _baseline(watch.step, weight, slowest)
    if before.count < MIN_DEFAULT_TIMES:
        return f"{before.count:,} of {MIN_DEFAULT_TIMES} requests for the default version's p99"
    slow = _threshold(before.quantile(1 - _SLOW), watch, rules, weight)
    above = seen.above(slow)
    if is_below(above, seen.count, _SLOW, ON_RISK):
        return None
    needed = requests_needed(above, _SLOW, ON_RISK)
    slower = f"{above:,} were slower" if above else "none was slower"
    return f"{seen.count:,} of {needed:,} requests for a p99 below {slow:.0f} ms ({slower})"


def _numbers(watch: Watch, weight: float, slowest: Times | None) -> str:
    seen, before = watch.step.canary, _baseline(watch.step, weight, slowest)
    text = f"{seen.requests:,} requests, {seen.failures:,} of them failed"
    if not seen.times.count or not before.count:
        return text
    own, other = seen.times.quantile(1 - _SLOW), before.quantile(1 - _SLOW)
    return f"{text}, p99 {own:.0f} ms (default version: {other:.0f} ms)"
