"""Register models, wait until they are loaded, and verify that they predict.

TorchServe's own health check is not sufficient: /ping returns Healthy while models load and while
they crash, and a request to a model that failed to load never gets a response.
"""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import requests

from vestal.errors import VestalError
from vestal.mar.sample import Sample, find_difference, read_sample, value_of
from vestal.server.api import Api, error_of, is_queue_full
from vestal.server.launch import temp_folder
from vestal.server.logs import Logs, exception_line, tail
from vestal.server.spec import FailedArchive, ModelSpec

_POLL_SECONDS = 0.1
_CLEANUP_SECONDS = 10.0
"""Time limit for removing a failed version, and for noticing that TorchServe has ended."""
_LOG_DELAY_SECONDS = 5.0
_MINIMUM_SECONDS = 5.0
"""Time limit for a call if another version has used up the time."""
HANDLER_RAISED = "Prediction failed"
"""TorchServe's message if a handler raised an exception: then a worker has responded."""
NO_EXCEPTION = (
    "its worker ended without an exception (killed, out of memory, or startupTimeout exceeded?)"
)

T = TypeVar("T")


class ServerEnded(VestalError):
    """TorchServe has ended, so no version can be served."""


class Readiness:
    """Loads models and verifies that they are ready.

    Args:
        deadline: for all models (time.monotonic).
        check: raises ServerEnded if TorchServe ends within this many seconds.
        on_event: receives a sentence about each step.
    """

    def __init__(
        self,
        api: Api,
        logs: Logs,
        deadline: float,
        check: Callable[[float], None],
        on_event: Callable[[str], None],
    ) -> None:
        self._api = api
        self._logs = logs
        self._started = time.monotonic()
        self._deadline = deadline
        self._check = check
        self._on_event = on_event
        self._failures: dict[ModelSpec, VestalError] = {}

    def load(self, specs: Sequence[ModelSpec], *, strict: bool) -> list[FailedArchive]:
        """Register all versions, wait until every worker is READY, and verify each version.

        Returns:
            The versions that failed and were unregistered; the errors contain the end of the log.

        Raises:
            VestalError: a version failed, if `strict`.
            ServerEnded: TorchServe ended.
        """
        self._wait(self._api.is_up, lambda: "TorchServe does not respond", self._logs.server_tail)
        loading: dict[ModelSpec, Sample | None] = {}
        for spec in specs:
            with self._collect_failure(spec, specs, strict):
                loading[spec] = read_sample(spec.archive)
                self._on_event(f"loading {spec} from {spec.archive.name}")
                self._register(spec)
        while loading := {s: sample for s, sample in loading.items() if s not in self._failures}:
            self._check(0)
            dead = self._logs.versions_with_dead_workers()
            for spec, sample in list(loading.items()):
                with self._collect_failure(spec, specs, strict):
                    if self._is_loaded(spec, dead):
                        self._verify(spec, sample)
                        self._on_event(f"{spec} is ready")
                        del loading[spec]
            time.sleep(_POLL_SECONDS)
        return [FailedArchive(spec.archive.name, error) for spec, error in self._failures.items()]

    def _register(self, spec: ModelSpec) -> None:
        with zipfile.ZipFile(spec.archive) as content:
            size = sum(member.file_size for member in content.infolist())
        free = shutil.disk_usage(temp_folder()).free
        if size > free:  # TorchServe's own message does not mention the disk
            raise VestalError(
                f"the disk is full: {spec.archive.name} unpacks to {size / 1e6:.1f} MB, and "
                f"{temp_folder()} has {free / 1e6:.1f} MB left. Free some space, or set TMPDIR to "
                "another folder"
            )
        self._call(spec, lambda: self._api.register(spec, self._call_seconds()))

    @contextmanager
    def _collect_failure(
        self, spec: ModelSpec, specs: Sequence[ModelSpec], strict: bool
    ) -> Iterator[None]:
        """Unregister a version that fails, and go on with the others unless `strict`."""
        try:
            yield
        except ServerEnded:
            raise
        except VestalError as error:
            if strict:
                raise
            self._failures[spec] = error
            self._on_event(f"{spec.archive.name} is not served: {error}")
            self._remove(spec, [other for other in specs if other not in self._failures])

    def _remove(self, spec: ModelSpec, others: Sequence[ModelSpec]) -> None:
        """Unregister a version; the next version of its model becomes the default."""
        following = [other for other in others if other.name == spec.name][:1]
        try:
            if not self._is_registered(spec):
                return
            for other in filter(self._is_registered, following):
                self._api.set_default(other, _CLEANUP_SECONDS)
            self._api.unregister(spec, _CLEANUP_SECONDS)
        except requests.RequestException as error:
            self._check(_CLEANUP_SECONDS)
            self._on_event(f"{spec} could not be unregistered: {error}")

    def _is_registered(self, spec: ModelSpec) -> bool:
        return self._api.describe(spec.name, spec.version, _CLEANUP_SECONDS) is not None

    def _call_seconds(self) -> float:
        return max(self._deadline - time.monotonic(), _MINIMUM_SECONDS)

    def _is_loaded(self, spec: ModelSpec, dead: set[str]) -> bool:
        if _key(spec) in dead:
            cause, lines = self._find_cause(spec)
            log = tail(self._logs.workers, lines)
            raise VestalError("\n".join([f"model {spec} did not load: {cause}", *log]))
        description = self._call(
            spec, lambda: self._api.describe(spec.name, spec.version, self._call_seconds())
        )
        if description is None:
            raise VestalError(f"model {spec} was unregistered while it was loading")
        states = [worker["status"] for worker in description["workers"]]
        ready = states.count("READY")
        if ready == len(states) and ready >= max(1, int(description["minWorkers"])):
            return True
        self._raise_if_late(
            lambda: f"model {spec}: {ready} of {len(states)} workers are READY",
            lambda: self._worker_tail(spec),
        )
        return False

    def _find_cause(self, spec: ModelSpec) -> tuple[str, list[str]]:
        """Return the worker's exception, and its output up to there."""
        deadline = time.monotonic() + _LOG_DELAY_SECONDS
        while True:
            lines = self._logs.worker_lines(_key(spec))
            if (index := exception_line(lines)) is not None:
                return lines[index], lines[: index + 1]
            if time.monotonic() > deadline:  # a worker's output arrives later than TorchServe's
                return NO_EXCEPTION, lines
            time.sleep(_POLL_SECONDS)

    def _verify(self, spec: ModelSpec, sample: Sample | None) -> None:
        if sample is None:
            self._verify_worker(spec)
            return
        response = self._send(
            spec,
            lambda: self._api.predict(
                spec, sample.input, sample.content_type, self._call_seconds()
            ),
        )
        if not response.ok:
            raise self._error_with_log(
                spec, f"model {spec} did not predict its sample {sample.name}: {error_of(response)}"
            )
        value = value_of(response.content, response.headers.get("Content-Type", ""))
        difference = find_difference(sample.answer, value, sample.tolerance)
        if difference is not None:
            raise VestalError(
                f"model {spec} predicts its sample {sample.name} differently than when it was "
                f"packed: {difference}. Weights, code or packages have changed since. Pack it again"
            )

    def _verify_worker(self, spec: ModelSpec) -> None:
        """Without a sample: check that a worker responds to a request for its description."""
        response = self._send(
            spec,
            lambda: self._api.describe_in_worker(spec.name, spec.version, self._call_seconds()),
        )
        # A handler without a description raises an exception.
        if not response.ok and HANDLER_RAISED not in response.text:
            raise self._error_with_log(spec, f"model {spec} did not respond: {error_of(response)}")

    def _send(self, spec: ModelSpec, call: Callable[[], requests.Response]) -> requests.Response:
        """Send a request, again while the queue is full of requests of waiting callers."""
        responses: list[requests.Response] = []

        def is_accepted() -> bool:
            responses[:] = [self._call(spec, call)]
            return not is_queue_full(responses[0])

        self._wait(
            is_accepted,
            lambda: f"model {spec} did not respond: {error_of(responses[0])}",
            lambda: self._worker_tail(spec),
        )
        return responses[0]

    def _worker_tail(self, spec: ModelSpec) -> list[str]:
        return tail(self._logs.workers, self._logs.worker_lines(_key(spec)))

    def _error_with_log(self, spec: ModelSpec, message: str) -> VestalError:
        return VestalError("\n".join([message, *self._worker_tail(spec)]))

    def _call(self, spec: ModelSpec, call: Callable[[], T]) -> T:
        try:
            return call()
        except requests.Timeout:
            raise self._error_with_log(
                spec, f"model {spec} did not respond in time (see --timeout)"
            ) from None
        except requests.RequestException as error:
            self._check(_CLEANUP_SECONDS)
            raise VestalError(f"model {spec}: the call of TorchServe failed ({error})") from None

    def _wait(
        self,
        condition: Callable[[], bool],
        problem: Callable[[], str],
        lines: Callable[[], list[str]],
    ) -> None:
        while not condition():
            self._check(0)
            self._raise_if_late(problem, lines)
            time.sleep(_POLL_SECONDS)

    def _raise_if_late(self, problem: Callable[[], str], lines: Callable[[], list[str]]) -> None:
        if time.monotonic() > self._deadline:
            waited = time.monotonic() - self._started
            message = f"{problem()} after {waited:.0f} s (see --timeout)"
            raise VestalError("\n".join([message, *lines()]))


def _key(spec: ModelSpec) -> str:
    """Return the version's name in TorchServe's logs."""
    return f"{spec.name}_{spec.version}"
