"""Load a version and verify it.

TorchServe's own health check is not sufficient: /ping returns Healthy while models load and while
they crash, and a request to a model that failed to load never gets a response.
"""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vestal.client import (
    Client,
    ClientError,
    Conflict,
    DeadlineExceeded,
    ModelDescription,
    NotFound,
    NotReady,
    Overloaded,
    RequestRefused,
    ServerFailed,
)
from vestal.errors import VestalError
from vestal.fleet.desired import Probe
from vestal.fleet.failures import Interrupted, StepFailed, VersionFailed
from vestal.fleet.observing import CALL_SECONDS
from vestal.fleet.steps import Register
from vestal.mar.index import sha256_of
from vestal.mar.manifest import read_manifest
from vestal.mar.sample import Sample, find_difference, read_sample
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


def check_archive(step: Register, store: Path, *, thorough: bool) -> None:
    """Check an archive before TorchServe gets it.

    Args:
        thorough: also run the checks of `vestal check` that do not execute its code.

    Raises:
        VersionFailed: the archive is not the desired one, or cannot be served.
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
    if thorough:
        _check_content(archive, step.version)


def _check_content(archive: Path, version: str) -> None:
    from vestal.checking import Severity, check  # reads the sources of installed packages

    packed = read_manifest(archive).version
    if packed != version:
        raise VersionFailed(f"{archive} has version {packed}, and {version} is desired")
    report = check(archive)
    errors = [each for each in report.findings if each.severity is Severity.ERROR]
    if errors:
        more = f" (and {len(errors) - 1} more errors)" if len(errors) > 1 else ""
        where = f"{errors[0].where}: " if errors[0].where else ""
        raise VersionFailed(
            f"{archive.name} cannot be served: {where}{errors[0].meaning}{more}. "
            f"`vestal check {archive}` lists what to do"
        )


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

    Args:
        workers: the least number of workers.

    Raises:
        VersionFailed: a worker died, or the time is up.
        Interrupted: the version was unregistered.
    """
    while True:
        dead = loading.logs.dead_workers()  # before the description: a new one may be READY then
        description = _describe(loading)
        loading.workers = [worker.id for worker in description.workers]
        if any((loading.key, worker) in dead for worker in loading.workers):
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


@dataclass(frozen=True)
class ProbeSample(Sample):
    """A probe as a sample; only the keys that it gives are compared."""

    expected: ClassVar[str] = "its probe expects"
    anything: bool = False

    @classmethod
    def of(cls, probe: Probe) -> ProbeSample:
        return cls(
            input=bytes(probe.body),
            content_type=probe.content_type,
            name=probe.name,
            answer=probe.expect,
            anything=probe.expect is None,
        )

    def difference(self, answer: Any) -> str | None:
        if self.anything:
            return None
        return find_difference(self.answer, _common(self.answer, answer), self.tolerance)


def _common(expected: Any, actual: Any) -> Any:
    """Remove the keys that are not expected."""
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        return {key: _common(expected[key], actual[key]) for key in expected if key in actual}
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [_common(e, a) for e, a in zip(expected, actual, strict=True)]
    return actual


def verify(loading: Loading, archive: Path, probes: tuple[Probe, ...]) -> None:
    """Send the packed sample and the probes.

    Raises:
        VersionFailed: a response is not as expected, or there is none in time.
    """
    try:
        packed = read_sample(archive)
    except VestalError as error:
        raise VersionFailed(str(error)) from None
    for sample in (packed, *map(ProbeSample.of, probes)):
        while True:
            try:
                _send(loading, sample)
                break
            except Overloaded as error:  # the queue is full of requests of waiting callers
                reason = server_error(error)
                loading.pause(lambda: f"it did not respond: {reason}")  # noqa: B023


def _send(loading: Loading, sample: Sample | None) -> None:
    try:
        loading.client.verify(
            loading.name, loading.version, sample=sample, timeout=loading.seconds_left()
        )
    except (Overloaded, Interrupted):
        raise
    except NotFound:
        raise Interrupted(f"model {loading} was unregistered while it was verified") from None
    except NotReady as error:
        log = loading.log_tail() if error.status else []
        raise VersionFailed(f"model {error.args[0]}. Pack it again", log) from None
    except DeadlineExceeded:
        raise VersionFailed(
            f"model {loading} did not respond in time (see --timeout)", loading.log_tail()
        ) from None
    except ServerFailed as error:
        raise VersionFailed(
            f"model {loading} did not respond: {server_error(error)}", loading.log_tail()
        ) from None


def server_error(error: ClientError) -> str:
    """Return TorchServe's error: `404 ModelNotFoundException: Model not found at: x.mar`."""
    if error.server_type is None:
        return str(error.args[0])
    return f"{error.status} {error.server_type}: {error.server_message}"
