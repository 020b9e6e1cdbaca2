"""Carry out one step of a plan. A step that fails undoes what it did.

The version that serves is not touched before another one is verified, and removed only when it is
idle.
"""

from __future__ import annotations

import copy
import time
from concurrent.futures import wait

from vestal.client import (
    ClientError,
    Conflict,
    DeadlineExceeded,
    ModelDescription,
    NotFound,
)
from vestal.client.flow import BlockingIO
from vestal.fleet.capacity import format_bytes
from vestal.fleet.failures import Interrupted, StepFailed, VersionFailed
from vestal.fleet.health import above_limit
from vestal.fleet.loading import (
    POLL_SECONDS,
    check_archive,
    register,
    server_error,
    wait_until_loaded,
)
from vestal.fleet.observing import CALL_SECONDS, observe_model
from vestal.fleet.rescaling import scale, set_workers
from vestal.fleet.steps import Register, Remove, Scale, Settle, Step, Switch, Verify
from vestal.fleet.verifying import verify
from vestal.fleet.work import Work

DRAIN_SECONDS = 60.0
"""Time in which a version that is removed may become idle, in addition to its responseTimeout."""
_SETTLE_POLL_SECONDS = 0.5


def carry_out(step: Step, work: Work) -> str:
    """Carry out a step; return a sentence about its result.

    Raises:
        VersionFailed: the version cannot be served.
        StepFailed: the step is to be tried again later.
        Interrupted: TorchServe ended, the server is stopping, or the target has changed.
        ClientError: TorchServe did not respond.
    """
    match step:
        case Register():
            return _register(step, work)
        case Verify():
            return _verify(step, work)
        case Switch():
            return _switch(step, work)
        case Settle():
            return _settle(step, work)
        case Scale():
            return scale(step, work)
        case Remove():
            return _remove(step, work)
    raise TypeError(f"unknown step {step}")


def announce(step: Step, work: Work) -> str:
    """Return what a step is about to do."""
    name = f"{step.model} {step.version}"
    match step:
        case Register():
            return f"loading {name} from {step.archive}"
        case Verify():
            return f"verifying {name}"
        case Switch():
            return f"making {name} the default version"
        case Settle():
            seconds = work.target.swap.settle_seconds if work.target else 0
            return f"watching {name} for {seconds:g} s"
        case Scale() if step.workers == step.workers_before:
            return f"starting the workers of {name} again ({step.why})"
        case Scale():
            return f"scaling {name} from {step.workers_before} to {step.workers} workers"
        case Remove():
            return f"waiting until {name} is idle, to remove it ({step.why})"
    raise TypeError(f"unknown step {step}")


def _register(step: Register, work: Work) -> str:
    archive = work.store / step.archive
    check_archive(step, work.store)
    if work.checks is not None:
        work.checks.run(archive, step.sha256, step.version, work.interrupt)
    loading = work.loading(step)
    work.restore()
    register(loading, step, archive)
    try:
        # minWorkers of model-config.yaml wins over the number in the request.
        started = work.client.describe(step.model, step.version, timeout=CALL_SECONDS).min_workers
        if started < step.workers:
            set_workers(loading, step.workers)
        description = wait_until_loaded(loading, step.workers)
    except Interrupted:
        raise
    except BaseException:
        _discard(step, work)
        raise
    count = len(description.workers)
    return f"{loading}: {count} {'worker is' if count == 1 else 'workers are'} READY"


def _verify(step: Verify, work: Work) -> str:
    loading = work.loading(step)
    version = work.version(step)
    probes = work.target.probes if work.target else ()
    try:
        wait_until_loaded(loading)
        verify(loading, work.store / version.archive, probes)
        _check_memory(step, wait_until_loaded(loading), work)
    except VersionFailed:
        if not _is_default_with_others(step, work):
            _discard(step, work)
        raise
    return f"{loading} is ready"


def _check_memory(step: Verify, description: ModelDescription, work: Work) -> None:
    """Refuse a new version whose fresh workers are above their limit: others would be, too."""
    if work.actual.models[step.model].default == step.version:
        return  # a version that serves is better than none
    target = work.target.versions.get(step.version) if work.target else None
    if target is None or target.memory_limit is None:
        return
    pids = [worker.pid for worker in description.workers if worker.pid is not None]
    large = above_limit(pids, target.memory_limit)
    if large:
        raise VersionFailed(
            f"{step.model} {step.version}: a new worker has {format_bytes(max(large.values()))}, "
            f"more than its memory_limit of {format_bytes(target.memory_limit)}"
        )


def _switch(step: Switch, work: Work) -> str:
    _set_default(step.model, step.version, work)
    before = work.actual.models[step.model].default
    return f"{step.model} {step.version} is the default version (before: {before})"


def _settle(step: Settle, work: Work) -> str:
    while (verdict := work.judge(step)).decision == "continue":
        work.interrupt()
        time.sleep(_SETTLE_POLL_SECONDS)
    name = f"{step.model} {step.version}"
    if verdict.decision == "accept":
        return f"{name} is confirmed: {verdict.reason}"
    if step.previous is None:
        return f"{name} stays the default version although {verdict.reason}"
    _set_default(step.model, step.previous, work)
    raise VersionFailed(
        f"{name} is worse than {step.previous}, which is the default version again: "
        f"{verdict.reason}"
    )


def _remove(step: Remove, work: Work) -> str:
    work.withdraw()
    try:
        return _drain_and_unregister(step, work)
    except BaseException:
        work.restore()
        raise


def _drain_and_unregister(step: Remove, work: Work) -> str:
    name = f"{step.model} {step.version}"
    try:
        description = work.client.describe(step.model, step.version, timeout=CALL_SECONDS)
        # Several workers without ids are known to be idle only after responseTimeout.
        seconds = DRAIN_SECONDS + description.response_timeout
        try:
            _drain(step, work, seconds)
        except DeadlineExceeded:
            work.note(f"{name} was not idle after {seconds:g} s; its requests are cut off")
            _unregister(step, work)
    except NotFound:
        return f"{name} was removed already"
    except Conflict:  # somebody has made it the default version: the plan has another step first
        raise Interrupted(f"{name} has become the default version") from None
    return f"{name} was removed"


def _drain(step: Remove, work: Work, seconds: float) -> None:
    """Unregister the version when it is idle; ends at once if the step is interrupted.

    A request for a description may wait for a worker for a long time. The client that sends it is
    closed then, so that it cannot unregister the version afterwards.
    """
    with copy.copy(work.client) as client:
        removal = BlockingIO(
            lambda: client.unregister(step.model, step.version, timeout=seconds), may_hang=True
        ).start()
        while not removal.done():
            work.interrupt()
            wait([removal], POLL_SECONDS)
    removal.result()


def _unregister(step: Step, work: Work) -> None:
    work.client.unregister(step.model, step.version, drain=False, timeout=CALL_SECONDS)


def _discard(step: Step, work: Work) -> None:
    """Unregister a version that failed; another version of its model becomes the default."""
    try:
        observed = observe_model(work.client, step.model)
        others = [version for version in observed.versions if version != step.version]
        if step.version not in observed.versions:
            return
        if observed.default == step.version and others:
            ready = [version for version in others if observed.versions[version].ready]
            work.client.set_default(step.model, (ready or others)[0], timeout=CALL_SECONDS)
        work.withdraw()
        _unregister(step, work)
    except ClientError as error:
        work.restore()
        work.note(f"{step.model} {step.version} could not be unregistered: {server_error(error)}")


def _is_default_with_others(step: Step, work: Work) -> bool:
    state = work.actual.models[step.model]
    return state.default == step.version and len(state.versions) > 1


def _set_default(model: str, version: str, work: Work) -> None:
    work.client.set_default(model, version, timeout=CALL_SECONDS)
    default = work.client.describe(model, timeout=CALL_SECONDS).version
    if default != version:
        raise StepFailed(
            f"TorchServe did not make {model} {version} the default version, which is {default}"
        )
