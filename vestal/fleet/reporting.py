"""Describe what runs, for the keeper's API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from vestal.fleet.actual import Actual, ModelState, VersionState
from vestal.fleet.desired import Canary, Desired, ModelTarget
from vestal.fleet.jobs import Job
from vestal.fleet.observing import Observed
from vestal.fleet.status import ModelStatus, Traffic, VersionStatus, WorkerCounts

State = Literal["starting", "verifying", "ready", "degraded", "draining", "failed", "rejected"]


def not_ready_reasons(desired: Desired, actual: Actual) -> list[str]:
    """Return why the server is not ready: each required model without a verified default."""
    reasons = []
    for name, target in desired.models.items():
        if not target.required:
            continue
        state = actual.models.get(name, ModelState())
        version = state.versions.get(state.default or "")
        if version is None or state.default is None:
            rejected = state.rejected.get(target.default)
            reasons.append(f"{name} {target.default}: {rejected or 'not registered yet'}")
        elif not version.verified:
            reasons.append(f"{name} {state.default}: not verified yet")
        elif not version.ready:
            reasons.append(f"{name} {state.default}: none of its workers is READY")
    return reasons


def model_status(
    name: str,
    target: ModelTarget | None,
    state: ModelState | None,
    observed: Observed | None,
    job: Job | None,
    traffic: Callable[[str, str], Traffic],
) -> ModelStatus:
    """Describe one model. `job`: the last one that worked on it."""
    state = state or ModelState()
    default = state.versions.get(state.default or "")
    problems = [f"{p.version}: {p.reason}" for p in job.problems] if job else []
    versions = [
        _version_status(name, version, each, target, state, observed, traffic)
        for version, each in state.versions.items()
    ]
    for version, version_target in ({} if target is None else target.versions).items():
        if version in state.versions:
            continue
        rejected = state.rejected.get(version)
        versions.append(
            VersionStatus(
                version=version,
                archive=version_target.archive,
                state="rejected" if rejected else "starting",
                reason=rejected,
                workers=WorkerCounts(
                    desired=version_target.workers.min, ready=0, starting=0, given_up=0
                ),
            )
        )
    return ModelStatus(
        name=name,
        desired=target.default if target else None,
        default=state.default,
        previous=state.previous.version if state.previous else None,
        canary=_canary(target.canary) if target and target.canary else None,
        required=target.required if target else False,
        ready=default is not None and default.verified and default.ready > 0,
        doing=job.doing if job else None,
        problem="; ".join(problems) or None,
        versions=versions,
    )


def _canary(canary: Canary) -> str:
    return f"canary {canary.version} gets {canary.weight:g} % of the requests at the gateway"


def _version_status(
    name: str,
    version: str,
    found: VersionState,
    target: ModelTarget | None,
    state: ModelState,
    observed: Observed | None,
    traffic: Callable[[str, str], Traffic],
) -> VersionStatus:
    description = observed.versions.get(version) if observed else None
    missing = found.workers - found.ready
    given_up = missing if found.given_up else 0
    rejected = state.rejected.get(version)
    condition: State = "ready"
    if rejected:
        condition = "rejected"
    elif target is None or (version not in target.versions and version != state.default):
        condition = "draining"
    elif found.given_up and not found.ready:
        condition = "failed"
    elif not found.verified:
        condition = "verifying" if found.ready >= found.workers else "starting"
    elif missing > 0:
        condition = "degraded"
    if state.previous and state.previous.version == version and condition == "draining":
        condition = "ready"  # kept for a rollback
    return VersionStatus(
        version=version,
        archive=found.archive,
        state=condition,
        default=version == state.default,
        reason=rejected,
        workers=WorkerCounts(
            desired=found.workers,
            ready=found.ready,
            starting=max(0, missing - given_up),
            given_up=given_up,
        ),
        pending=description.queue_pending if description else 0,
        memory=found.memory,
        traffic=traffic(name, version),
    )
