"""A keeper with canaries, without TorchServe and without Envoy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from canary_traffic import times

from vestal.errors import VestalError
from vestal.fleet.actual import Actual, ModelState, VersionState
from vestal.fleet.canary.counts import Counts, Version
from vestal.fleet.canary.judging import Rules
from vestal.fleet.canary.requests import CanaryRequest
from vestal.fleet.canary.runner import Canaries
from vestal.fleet.desired import Desired, ModelTarget, VersionTarget, Workers
from vestal.fleet.fleet import Fleet
from vestal.fleet.knowledge import Knowledge
from vestal.fleet.revisions import Revisions
from vestal.fleet.state import StateStore
from vestal.fleet.status import Source
from vestal.fleet.steps import Verify
from vestal.gateway.settings import Gateway

SHA = {"1.0": "a" * 64, "2.0": "b" * 64}
RULES = Rules(steps=(10, 50, 100), every=0.5)
SOURCE = Source(command="vestal apply", user="alice")


def target(version: str, workers: int = 2) -> VersionTarget:
    return VersionTarget(
        archive=f"m-{version}.mar", sha256=SHA[version], workers=Workers(min=workers, max=workers)
    )


def served(*versions: str, **fields: Any) -> Desired:
    """The first version is the default."""
    model = ModelTarget(
        default=versions[0], versions={each: target(each) for each in versions}, **fields
    )
    return Desired(models={"m": model}, gateway=Gateway())


class World:
    """A keeper's store and canaries, without TorchServe and without Envoy."""

    def __init__(self, folder: Path, desired: Desired, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.counts: dict[Version, Counts] = {}
        self.problem: str | None = None
        self.clock = 0.0
        monkeypatch.setattr("vestal.fleet.canary.runner.time.monotonic", lambda: self.clock)
        self.events: list[tuple[str, str]] = []
        first = StateStore(folder)
        revision = first.add_revision(desired, SOURCE)
        first.finish_revision(revision.number, "done")
        self.state = ModelState(default="1.0", serving="1.0", versions={"1.0": self.version("1.0")})
        self.restart()

    def restart(self) -> None:
        """Begin again with what is stored."""
        store = StateStore(self.folder)
        assert store.desired is not None
        unused = cast(Any, None)
        self.fleet = Fleet(
            *(unused, unused, unused, unused),
            knowledge=Knowledge(store, stored=True),
            revisions=Revisions(store, stored=True),
            judge=unused,
            gatekeeper=unused,
            worker_counts=unused,
            listener=lambda kind, text, _: self.events.append((kind, text)),
            desired=store.desired,
        )
        self.store = store
        self.canaries = Canaries(self.fleet, store, self.statistics)

    def statistics(self, versions: Sequence[Version]) -> Mapping[Version, Counts]:
        if self.problem:
            raise VestalError(self.problem)
        return {each: self.counts.get(each, Counts()) for each in versions}

    @staticmethod
    def version(name: str, ready: int = 2) -> VersionState:
        return VersionState(f"m-{name}.mar", SHA[name], 2, ready, verified=ready > 0)

    def load(self, **fields: Any) -> None:
        """The canary's workers are READY, and it is verified."""
        versions = {**self.state.versions, "2.0": replace(self.version("2.0"), **fields)}
        self.state = replace(self.state, versions=versions)

    def reject(self, reason: str) -> None:
        """The keeper has rejected the canary's version."""
        self.fleet.knowledge.reject(Verify("m", "2.0", "it is new"), reason)
        self.state = replace(self.state, rejected={"2.0": reason})

    def start(self, rules: Rules = RULES, **fields: Any) -> None:
        request = CanaryRequest(
            model="m", version="2.0", archive="m-2.0.mar", sha256=SHA["2.0"], rules=rules, **fields
        )
        run, _ = self.canaries.prepare(request)
        self.canaries.begin(run)

    def tick(self, own: int = 0, others: int = 0, failures: int = 0, taken: float = 20.0) -> None:
        """Let a second pass, with this number of requests to each version."""
        self.clock += 1
        self.counts["m", "2.0"] = self.counts.get(("m", "2.0"), Counts()) + Counts(
            requests=own, failures=failures, times=times(np.full(own, taken))
        )
        self.counts["m", "1.0"] = self.counts.get(("m", "1.0"), Counts()) + Counts(
            requests=others, times=times(np.full(others, 20.0))
        )
        self.canaries.step(Actual(models={"m": self.state}), {})

    @property
    def run(self):
        return self.store.canaries["m"]

    @property
    def model(self) -> ModelTarget:
        return self.fleet.desired.models["m"]

    def share(self) -> float | None:
        return self.model.canary.weight if self.model.canary else None

    def until_running(self) -> None:
        self.start()
        self.load()
        self.tick()
        assert self.run.state == "running"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "state", served("1.0"), monkeypatch)
