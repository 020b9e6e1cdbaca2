"""Traffic of a canary and of the default version, second by second, as the gateway counts it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vestal.fleet.canary.counts import Counts, Times
from vestal.fleet.canary.judging import Observation, Rules, Watch, judge
from vestal.fleet.canary.states import Run, judged
from vestal.fleet.desired import VersionTarget

TARGET = VersionTarget(archive="m-1.0.mar", sha256="a" * 64)


def new_run(rules: Rules, **fields) -> Run:
    known = {"model": "m", "version": "2.0", "default": "1.0", "state": "running", "since": 0.0}
    return Run(**{**known, "target": TARGET, "default_target": TARGET, "rules": rules, **fields})


def times(milliseconds: np.ndarray) -> Times:
    """Count times in Envoy's bins: whole milliseconds, two decimal digits."""
    whole = np.floor(milliseconds)
    width = np.maximum(1, 10 ** (np.floor(np.log10(np.maximum(whole, 1))) - 1))
    lower, count = np.unique(np.floor(whole / width) * width, return_counts=True)
    return Times(bins=dict(zip(lower.tolist(), count.tolist(), strict=True)))


@dataclass(frozen=True)
class Version:
    """How a version responds: lognormal times, of which some may be a hundred times as long."""

    failing: float = 0.0
    median: float = 20.0
    spread: float = 0.3
    stalling: float = 0.0

    def respond(self, rng: np.random.Generator, requests: int) -> Counts:
        taken = self.median * rng.lognormal(0, self.spread, requests)
        taken *= np.where(rng.random(requests) < self.stalling, 100, 1)
        failures = int(rng.binomial(requests, self.failing))
        return Counts(requests=requests, failures=failures, times=times(taken))


@dataclass(frozen=True)
class Outcome:
    """How a canary ended: its last state, seconds of its last step and of all steps."""

    run: Run
    step_seconds: float
    seconds: int


def play(
    seed: int, canary: Version, default: Version, rules: Rules, *, rate: float, most: int = 3600
) -> Outcome:
    """Play a canary until it ends, or until the time limit."""
    rng = np.random.default_rng(seed)
    run, watch = new_run(rules), Watch(rules.every)
    for second in range(1, most + 1):
        requests = int(rng.poisson(rate))
        own = int(rng.binomial(requests, run.weight / 100))
        seen = canary.respond(rng, own), default.respond(rng, requests - own)
        watch.add(Observation(1.0, *seen))
        verdict = judge(watch, run.rules, run.weight, run.slowest_times)
        after = judged(run, verdict, watch.step.default.times, float(second))
        if after.state != "running":
            return Outcome(after, watch.step.seconds, second)
        if after.step != run.step:
            watch = Watch(rules.every)
        run = after
    return Outcome(run, watch.step.seconds, most)
