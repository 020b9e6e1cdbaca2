"""Flows that check or wait until a version is ready: every worker is READY, and one responds.

Neither is sufficient alone. TorchServe's /ping is Healthy whatever the state of its models; a model
that failed to load accepts requests and never responds; and a READY worker can be stuck.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from vestal.client.base import CallContext
from vestal.client.errors import (
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    NotFound,
    NotReady,
    Overloaded,
    TokenError,
)
from vestal.client.failures import name_prefix
from vestal.client.flow import Flow, Pause
from vestal.client.management import describe, models, probe
from vestal.client.tokens import KeyFile
from vestal.errors import UsageError

if TYPE_CHECKING:
    from vestal.client.descriptions import ModelDescription

POLL = 0.1  # seconds between two checks
LOST_PROCESSES = 2
"""A worker that loses more processes than this before its first response does not load."""

_SEE_LOG = "See the model's log"
_NEVER_RESPONDS = (
    f"{_SEE_LOG}. While the version is registered, it accepts requests and never responds: "
    "client.unregister(model, version, drain=False)"
)


def ready(context: CallContext, model: str | None, version: str | None) -> Flow[bool]:
    """Whether one version, or every served version, is ready; without retries."""
    if model is None and version is not None:
        raise UsageError(f"version {version!r} was passed without a model")
    context = context.without_retries()
    try:
        if model is not None:
            return (yield from _responds(context, model, version))
        for info in (yield from models(context)):
            if not (yield from _responds(context, info.name, info.version)):
                return False
    except ClientError as error:
        if isinstance(error, DeadlineExceeded) or _is_temporary(context, error):
            return False
        raise
    return True


def _is_temporary(context: CallContext, error: ClientError) -> bool:
    """Whether waiting may help: no server, no such model, or no server behind a proxy."""
    if isinstance(error, TokenError):
        # TorchServe writes its key file when it starts.
        return isinstance(context.tokens, KeyFile) and not context.tokens.path.exists()
    return isinstance(error, (ConnectionFailed, NotFound, Overloaded)) or error.status in (502, 504)


def _responds(context: CallContext, model: str, version: str | None) -> Flow[bool]:
    description = yield from describe(context, model, version)
    return description.ready and (yield from probe(context, model, version))[0]


def wait_ready(
    context: CallContext, model: str, version: str | None, *, registered: bool = False
) -> Flow[ModelDescription]:
    """Wait until a version is ready; `registered`: this call registered it, so it must exist.

    Raises NotReady if its workers die while they load it, DeadlineExceeded.
    """
    lost = LostProcesses(_SEE_LOG) if registered else LostProcesses()
    context = context.without_retries()
    state: str | None = None
    while True:
        cause: ClientError | None = None
        try:
            description = yield from describe(context, model, version)
            if description.ready and (yield from probe(context, model, version))[0]:
                return description
            lost.check(description, silent=description.ready)
            up, expected = len(description.ready_workers), max(1, description.min_workers)
            silent = ", but none of them responded" if description.ready else ""
            state = f"{up} of {expected} workers READY{silent}"
        except DeadlineExceeded as error:
            if state is None:
                raise
            # What was seen before tells more than that the last call had no time left.
            raise out_of_time(context, _not_ready(model, version, state)) from error
        except ClientError as error:
            if not _is_temporary(context, error) or (registered and isinstance(error, NotFound)):
                raise
            state, cause = str(error.args[0]), error
        yield from pause(context, POLL, _not_ready(model, version, state), cause)


def _not_ready(model: str, version: str | None, state: str) -> str:
    return f"{name_prefix(model, version)}not ready: {state}"


def pause(
    context: CallContext, seconds: float, state: str, cause: ClientError | None = None
) -> Flow[None]:
    """Pause; raises DeadlineExceeded with the last state if no time is left."""
    if context.deadline.remaining() <= seconds:
        raise out_of_time(context, state) from cause
    yield Pause(seconds)


def out_of_time(context: CallContext, state: str) -> DeadlineExceeded:
    """The error of a call whose time ends in this state."""
    return DeadlineExceeded(
        f"{state} (after {context.deadline.elapsed:.1f} s of {context.deadline.seconds:g} s)",
        model=context.model,
        version=context.version,
        hint="Pass a longer timeout=, or see the model's log",
    )


class LostProcesses:
    """Counts the processes of each worker before its first response.

    TorchServe restarts a worker that died, for five minutes if it was loading its model, and
    reports only the new process id.
    """

    def __init__(self, hint: str = _NEVER_RESPONDS) -> None:
        self._hint = hint
        self._pids: defaultdict[str, set[int]] = defaultdict(set)

    def check(self, description: ModelDescription, *, silent: bool = False) -> None:
        """Raises NotReady if a worker keeps dying. `silent`: READY workers did not respond."""
        for worker in description.workers:
            pids = self._pids[worker.id]
            if worker.ready and not silent:
                pids.clear()
            elif worker.pid is not None:
                pids.add(worker.pid)
            if len(pids) > LOST_PROCESSES:
                raise NotReady(
                    f"{description.name} {description.version} does not load: worker {worker.id} "
                    f"lost {LOST_PROCESSES} processes before its first response",
                    model=description.name,
                    version=description.version,
                    hint=self._hint,
                )
