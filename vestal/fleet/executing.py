"""Carry out one step of a plan. A step that fails undoes what it did.

The version that serves is not touched before another one is verified, and removed only when it is
idle.
"""

from __future__ import annotations

import time

from vestal.client import (
    ClientError,
    Conflict,
    DeadlineExceeded,
    NotFound,
)
from vestal.fleet.failures import Interrupted, StepFailed, VersionFailed
from vestal.fleet.loading import (
    check_archive,
    register,
    server_error,
    verify,
    wait_until_loaded,
)
from vestal.fleet.observing import CALL_SECONDS, observe_model
from vestal.fleet.rescaling import scale
from vestal.fleet.steps import Register, Remove, Scale, Settle, Step, Switch, Verify
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
    check_archive(step, work.store, thorough=work.thorough)
    loading = work.loading(step)
    work.restore()
    register(loading, step, archive)
    try:
        description = wait_until_loaded(loading)
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
    except VersionFailed:
        if not _is_default_with_others(step, work):
            _discard(step, work)
        raise
    return f"{loading} is ready"


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
            work.client.unregister(step.model, step.version, timeout=seconds)
        except DeadlineExceeded:
            work.note(f"{name} was not idle after {seconds:g} s; its requests are cut off")
            _unregister(step, work)
    except NotFound:
        return f"{name} was removed already"
    except Conflict:  # somebody has made it the default version: the plan has another step first
        raise Interrupted(f"{name} has become the default version") from None
    return f"{name} was removed"


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
