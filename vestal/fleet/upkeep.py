"""What the keeper does by itself: scale versions by load, and replace stuck and large workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from vestal.client import Client, ClientError, DeadlineExceeded, ModelDescription
from vestal.fleet.actual import Actual
from vestal.fleet.autoscaling import Autoscaler
from vestal.fleet.capacity import describe_lack, format_bytes
from vestal.fleet.desired import ModelTarget
from vestal.fleet.fence import Management, NotIdle
from vestal.fleet.health import (
    STUCK_SECONDS,
    above_limit,
    find_stuck,
    replace_idle,
    replace_stuck,
)
from vestal.fleet.status import EventKind
from vestal.fleet.steps import Scale
from vestal.fleet.traffic import Version, Window

CHECK_SECONDS = 30.0


class Upkeep:
    """Looks after the versions that run as desired.

    Args:
        client: without retries.
        window: returns a version's traffic.
        report: receives events: kind, and a sentence that names the version.
        stuck_seconds: time after which a worker that does nothing is stuck.
        check_seconds: time between two checks of a version's workers.
    """

    def __init__(
        self,
        client: Client,
        management: Management,
        window: Callable[[str, str], Window],
        report: Callable[[EventKind, str], None],
        stuck_seconds: float = STUCK_SECONDS,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._client, self._management = client, management
        self._window, self._report = window, report
        self._stuck_seconds, self._check_seconds = stuck_seconds, check_seconds
        self._autoscaler = Autoscaler()
        self._lacking: set[Version] = set()
        self._checks: dict[Version, threading.Thread] = {}
        self._checked: dict[Version, float] = {}

    def step(
        self, target: ModelTarget, versions: Mapping[str, ModelDescription], actual: Actual
    ) -> Scale | None:
        """Return the next change of the number of workers of a model; call it once a second."""
        steps = []
        for version, version_target in target.versions.items():
            if version in versions:
                description = versions[version]
                window = self._window(description.name, version)
                steps.append(self._autoscaler.step(version_target.workers, description, window))
                self._autoscaler.keep_only(description.name, versions)
        return next((step for step in steps if step and self._fits(step, target, actual)), None)

    def _fits(self, step: Scale, target: ModelTarget, actual: Actual) -> bool:
        """Whether there is enough memory; reports it once if not."""
        key, lack = (step.model, step.version), None
        if step.workers > step.workers_before:
            footprint = actual.footprints.get(target.versions[step.version].sha256)
            lack = describe_lack(footprint, 1, actual.memory_free)
        if lack is None:
            self._lacking.discard(key)
        elif key not in self._lacking:
            self._lacking.add(key)
            self._report("note", f"{step.model} {step.version} gets no other worker: {lack}")
        return lack is None

    def check(self, target: ModelTarget, versions: Mapping[str, ModelDescription]) -> None:
        """Begin to check the workers of a model's versions if it is time; returns at once."""
        for version, description in versions.items():
            key = description.name, version
            version_target = target.versions.get(version)
            running = self._checks.get(key)
            if version_target is None or not description.ready or (running and running.is_alive()):
                continue
            if time.monotonic() - self._checked.get(key, 0.0) < self._check_seconds:
                continue
            self._checked[key] = time.monotonic()
            self._checks[key] = threading.Thread(
                target=self._check,
                args=(description, version_target.memory_limit),
                name=f"vestal-check-{description.name}",
                daemon=True,
            )
            self._checks[key].start()

    def _check(self, description: ModelDescription, memory_limit: int | None) -> None:
        name, version = description.name, description.version
        pids = [worker.pid for worker in description.workers if worker.pid is not None]
        stuck = find_stuck(
            lambda seconds: self._probe(name, version, seconds), pids, self._stuck_seconds
        )
        for pid in stuck:
            self._report(
                "repair", f"{name} {version}: worker {pid} responds to nothing; replacing it"
            )
            replace_stuck(pid)
        if stuck:
            return
        large = above_limit(pids, memory_limit) if memory_limit else {}
        for pid, rss in large.items():
            try:
                replace_idle(self._management, name, version, pid)
            except (NotIdle, OSError):
                return  # at the next check
            self._report(
                "repair",
                f"{name} {version}: worker {pid} was replaced: it had {format_bytes(rss)}, more "
                f"than its limit of {format_bytes(memory_limit or 0)}",
            )
            return  # one at a time

    def _probe(self, model: str, version: str, seconds: float) -> bool:
        try:
            self._client.describe(model, version, customized=True, timeout=seconds)
        except DeadlineExceeded:
            return False
        except ClientError:
            return True  # the worker has sent an error, or TorchServe has ended
        return True
