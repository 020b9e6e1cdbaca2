"""Load a version.

TorchServe's own health check is not sufficient: /ping returns Healthy while models load and while
they crash, and a request to a model that failed to load never gets a response.
"""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from vestal.client import (
    Client,
    ClientError,
    Conflict,
    DeadlineExceeded,
    ModelDescription,
    NotFound,
    RequestRefused,
    ServerFailed,
)
from vestal.fleet.failures import Interrupted, StepFailed, VersionFailed
from vestal.fleet.observing import CALL_SECONDS
from vestal.fleet.steps import Register
from vestal.mar.index import sha256_of
from vestal.server.guarded import temp_folder
from vestal.server.logs import Logs, exception_line, tail

POLL_SECONDS = 0.1
_LOG_DELAY_SECONDS = 20.0
"""TorchServe may lose the last output of a worker that dies; the next attempt prints it again."""
_MINIMUM_SECONDS = 5.0
"""Time limit for a call if other steps have used up the time."""
NO_EXCEPTION = (
    "its worker ended without an exception (killed, out of memory, or startupTimeout exceeded?)"
)


@dataclass
class Loading:
    """A version that is being loaded or verified.

    Attributes:
        logs: without the lines from before the version was registered.
        deadline: from time.monotonic.
        interrupt: raises Interrupted if the step must end.
        workers: ids of its workers, once they are known.
    """

    client: Client
    name: str
    version: str
    logs: Logs
    started: float
    deadline: float
    interrupt: Callable[[], None]
    workers: Collection[str] | None = None

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def key(self) -> str:
        """The version's name in TorchServe's logs."""
        return f"{self.name}_{self.version}"

    def output(self) -> list[str]:
        """Return what its workers have printed."""
        return self.logs.worker_lines(self.key, self.workers)

    def log_tail(self) -> list[str]:
        return tail(self.logs.workers, self.output())

    def seconds_left(self) -> float:
        return max(self.deadline - time.monotonic(), _MINIMUM_SECONDS)

    def pause(self, state: Callable[[], str]) -> None:
        """Pause; raises VersionFailed with the state if the time is up."""
        self.interrupt()
        if time.monotonic() > self.deadline:
            waited = time.monotonic() - self.started
            raise VersionFailed(
                f"model {self}: {state()} after {waited:.0f} s (see --timeout)", self.log_tail()
            )
        time.sleep(POLL_SECONDS)


def check_archive(step: Register, store: Path) -> None:
    """Check that an archive is the desired one, and that the disk has room for it.

    Raises:
        VersionFailed: it is not the desired one.
        StepFailed: the disk has no room for it.
    """
    archive = store / step.archive
    try:
        digest = sha256_of(archive)
    except OSError as error:
        raise VersionFailed(f"{archive} cannot be read ({error.strerror})") from None
    if digest != step.sha256:
        raise VersionFailed(
            f"{archive} has changed: its sha256 is {digest}, and {step.sha256} is desired. Pack it "
            "as another version, or apply again to serve the new file"
        )
    _check_disk(archive)


def _check_disk(archive: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        size = sum(member.file_size for member in content.infolist())
    free = shutil.disk_usage(temp_folder()).free
    if size > free:  # TorchServe's own message does not mention the disk
        raise StepFailed(
            f"the disk is full: {archive.name} unpacks to {size / 1e6:.1f} MB, and "
            f"{temp_folder()} has {free / 1e6:.1f} MB left. Free some space, or set TMPDIR to "
            "another folder"
        )


def register(loading: Loading, step: Register, archive: Path) -> None:
    """Register a version; its workers start in the background.

    Raises:
        VersionFailed: TorchServe refused the archive.
    """
    try:
        loading.client.register(
            step.archive,
            model=step.model,
            workers=step.workers,
            wait=False,
            timeout=loading.seconds_left(),
        )
    except (Conflict, RequestRefused, ServerFailed) as error:
        raise VersionFailed(
            f"model {loading} was not registered from {archive}: {server_error(error)}"
        ) from None


def wait_until_loaded(loading: Loading, workers: int = 1) -> ModelDescription:
    """Wait until all workers of a version are READY.

    A worker that dies once without an exception was killed: TorchServe starts it again.

    Args:
        workers: the least number of workers.

    Raises:
        VersionFailed: a worker died, or the time is up.
        Interrupted: the version was unregistered.
    """
    while True:
        deaths = loading.logs.deaths()  # before the description: a new one may be READY then
        description = _describe(loading)
        loading.workers = [worker.id for worker in description.workers]
        most = max((deaths[loading.key, worker] for worker in loading.workers), default=0)
        if most > 1 or (most == 1 and exception_line(loading.output()) is not None):
            cause, lines = _find_cause(loading)
            log = tail(loading.logs.workers, lines)
            raise VersionFailed(f"model {loading} did not load: {cause}", log)
        ready, expected = len(description.ready_workers), len(description.workers)
        if ready == expected >= max(workers, description.min_workers, 1):
            return description
        loading.pause(lambda: f"{ready} of {expected} workers are READY")  # noqa: B023


def _describe(loading: Loading) -> ModelDescription:
    try:
        return loading.client.describe(
            loading.name, loading.version, timeout=max(loading.seconds_left(), CALL_SECONDS)
        )
    except NotFound:
        raise Interrupted(f"model {loading} was unregistered while it was loading") from None
    except DeadlineExceeded:
        raise VersionFailed(
            f"model {loading} did not respond in time (see --timeout)", loading.log_tail()
        ) from None


def _find_cause(loading: Loading) -> tuple[str, list[str]]:
    """Return the worker's exception, and its output up to there."""
    deadline = time.monotonic() + _LOG_DELAY_SECONDS
    while True:
        lines = loading.output()
        if (index := exception_line(lines)) is not None:
            return lines[index], lines[: index + 1]
        if time.monotonic() > deadline:
            return NO_EXCEPTION, lines
        time.sleep(POLL_SECONDS)


def server_error(error: ClientError) -> str:
    """Return TorchServe's error: `404 ModelNotFoundException: Model not found at: x.mar`."""
    if error.server_type is None:
        return str(error.args[0])
    return f"{error.status} {error.server_type}: {error.server_message}"
