"""Verify a loaded version: its packed sample and the probes must be answered as expected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vestal.client import DeadlineExceeded, NotFound, NotReady, Overloaded, ServerFailed
from vestal.errors import VestalError
from vestal.fleet.desired import Probe
from vestal.fleet.failures import Interrupted, VersionFailed
from vestal.fleet.loading import Loading, server_error, wait_until_loaded
from vestal.mar.sample import Sample, find_difference, read_sample

_WORKER_DIED = "Worker died"
"""TorchServe's message for the requests of a worker that ended."""


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
        _verify_sample(loading, sample)


def _verify_sample(loading: Loading, sample: Sample | None) -> None:
    """Send a sample; once more if the worker died, because it may have been killed meanwhile."""
    may_die = True
    while True:
        try:
            _send(loading, sample)
            return
        except Overloaded as error:  # the queue is full of requests of waiting callers
            reason = server_error(error)
            loading.pause(lambda: f"it did not respond: {reason}")  # noqa: B023
        except _WorkerDied:
            if not may_die:
                raise
            may_die = False
            wait_until_loaded(loading)


class _WorkerDied(VersionFailed):
    """The worker died while it processed the sample."""


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
        died = _WORKER_DIED in (error.server_message or "")
        kind = _WorkerDied if died else VersionFailed
        raise kind(f"model {error.args[0]}. Pack it again", log) from None
    except DeadlineExceeded:
        raise VersionFailed(
            f"model {loading} did not respond in time (see --timeout)", loading.log_tail()
        ) from None
    except ServerFailed as error:
        raise VersionFailed(
            f"model {loading} did not respond: {server_error(error)}", loading.log_tail()
        ) from None
