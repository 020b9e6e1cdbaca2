"""Change the number of workers of a version without losing a request."""

from __future__ import annotations

import time

from vestal.fleet.failures import StepFailed, VersionFailed
from vestal.fleet.fence import NotIdle, remove_workers
from vestal.fleet.loading import POLL_SECONDS, Loading, wait_until_loaded
from vestal.fleet.observing import CALL_SECONDS
from vestal.fleet.steps import Scale
from vestal.fleet.work import Work

_QUIET_READINGS = 20
_HOLD_POLL_SECONDS = 0.2
_HOLD_SECONDS = 60.0
"""Time in which a moment without a request must come; afterwards, it is tried again later."""


def scale(step: Scale, work: Work) -> str:
    version = work.version(step)
    loading = work.loading(step)
    if version.given_up:
        _start_afresh(step, loading, work)
    elif step.workers < version.workers:
        _remove_workers(step, loading, work)
    else:
        _add_workers(step, loading)
    return f"{loading} has {step.workers} {'worker' if step.workers == 1 else 'workers'}"


def _add_workers(step: Scale, loading: Loading) -> None:
    try:
        set_workers(loading, step.workers)
        wait_until_loaded(loading, step.workers)
    except VersionFailed as error:
        set_workers(loading, step.workers_before)
        # The other workers of this version serve: it is not rejected.
        raise StepFailed(error.reason, str(error).splitlines()[1:]) from None


def _start_afresh(step: Scale, loading: Loading, work: Work) -> None:
    """Replace all workers: TorchServe starts new ones only when their number changes.

    Workers of the version that still serve are ended too, as soon as none seems to have a request.
    """
    if work.version(step).ready:
        _wait_for_quiet(step, work)
    set_workers(loading, 0)
    set_workers(loading, step.workers)
    try:
        wait_until_loaded(loading, step.workers)
    except VersionFailed as error:
        raise StepFailed(error.reason, str(error).splitlines()[1:]) from None


def _wait_for_quiet(step: Scale, work: Work) -> None:
    """Wait until the queue has been empty for a while.

    A request in a batch may be lost; the workers cannot be held while one of them is not READY.
    """
    deadline, quiet = time.monotonic() + _HOLD_SECONDS, 0
    while quiet < _QUIET_READINGS:
        work.interrupt()
        if time.monotonic() > deadline:
            raise StepFailed(
                f"{step.model} {step.version} is not idle; its other workers serve meanwhile"
            )
        description = work.client.describe(step.model, step.version, timeout=CALL_SECONDS)
        quiet = 0 if description.queue_pending else quiet + 1
        time.sleep(POLL_SECONDS)


def _remove_workers(step: Scale, loading: Loading, work: Work) -> None:
    """Remove workers while none has a request.

    Raises:
        StepFailed: there was no such moment; under constant load, there may be none at all.
    """
    deadline = time.monotonic() + _HOLD_SECONDS
    while True:
        try:
            remove_workers(work.client, work.management, step.model, step.version, step.workers)
            return
        except (NotIdle, OSError) as error:
            if time.monotonic() > deadline:
                raise StepFailed(
                    f"{loading} keeps its {step.workers_before} workers, because it was not idle "
                    f"for {_HOLD_SECONDS:g} s ({error})"
                ) from None
        work.interrupt()
        time.sleep(_HOLD_POLL_SECONDS)


def set_workers(loading: Loading, workers: int) -> None:
    """Change the number of workers; new ones start in the background."""
    loading.client.scale(
        loading.name, workers, loading.version, wait=False, timeout=loading.seconds_left()
    )
