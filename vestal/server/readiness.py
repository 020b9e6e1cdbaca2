"""From a TorchServe that listens to one that is ready: registered, loaded, probed.

TorchServe's own signs do not tell: /ping says Healthy while models load and while they crash, and
requests to a model that failed to load hang without an answer.
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
from vestal.mar.sample import Sample, matches, read_sample, value_of
from vestal.server.api import Api, left, queue_full, reason
from vestal.server.launch import temp_folder
from vestal.server.logs import Logs, exception_line, quote
from vestal.server.spec import Failed, ModelSpec

_POLL_SECONDS = 0.1
_END_SECONDS = 10.0
"""Until the end of TorchServe is reported, after its connections broke."""
_LOG_LAG_SECONDS = 5.0
_LEAST_SECONDS = 5.0


HANDLER_RAISED = "Prediction failed"
"""TorchServe's message when a handler raised: then a worker did answer."""
NO_EXCEPTION = (
    "its worker ended without an exception (killed, out of memory, or over its startupTimeout?)"
)

Answer = TypeVar("Answer")


class ServerEnded(VestalError):
    """TorchServe has ended, so no version can be served."""


class Readiness:
    """Brings models up within one deadline (time.monotonic).

    `check`: raises ServerEnded when TorchServe ends within so many seconds. `on_event`: gets each
    step as a sentence.
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

    def bring_up(self, specs: Sequence[ModelSpec], *, strict: bool) -> list[Failed]:
        """Registers all, waits until every worker is READY, and probes every version.

        Returns the versions that failed, each with the last lines of the right log; they are not
        registered any more. Raises the error of the first one if `strict`, and ServerEnded.
        """
        self._wait(self._api.answers, lambda: "TorchServe does not answer", self._logs.why_ended)
        loading: dict[ModelSpec, Sample | None] = {}
        for spec in specs:
            with self._each(spec, specs, strict):
                loading[spec] = read_sample(spec.archive)
                self._on_event(f"loading {spec} from {spec.archive.name}")
                self._register(spec)
        while loading := {s: sample for s, sample in loading.items() if s not in self._failures}:
            self._check(0)
            died = self._logs.died()
            for spec, sample in list(loading.items()):
                with self._each(spec, specs, strict):
                    if self._loaded(spec, died):
                        self._probe(spec, sample)
                        self._on_event(f"{spec} is ready")
                        del loading[spec]
            time.sleep(_POLL_SECONDS)
        return [Failed(spec.archive.name, error) for spec, error in self._failures.items()]

    def _register(self, spec: ModelSpec) -> None:
        with zipfile.ZipFile(spec.archive) as content:
            size = sum(member.file_size for member in content.infolist())
        free = shutil.disk_usage(temp_folder()).free
        if size > free:  # TorchServe would only tell that it failed to save the model
            raise VestalError(
                f"the disk is full: {spec.archive.name} unpacks to {size / 1e6:.1f} MB, and "
                f"{temp_folder()} has {free / 1e6:.1f} MB left. Free some space, or set TMPDIR to "
                "another folder"
            )
        self._call(spec, lambda: self._api.register(spec, self._left()))

    @contextmanager
    def _each(self, spec: ModelSpec, specs: Sequence[ModelSpec], strict: bool) -> Iterator[None]:
        """What fails for one version is that version's failure, and it is removed."""
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
        """Unregisters a version; if it is the default, the next one of its model becomes it."""
        following = [other for other in others if other.name == spec.name][:1]
        try:
            if not self._registered(spec):
                return
            for other in filter(self._registered, following):
                self._api.set_default(other, _END_SECONDS)
            self._api.unregister(spec, _END_SECONDS)
        except requests.RequestException as error:
            self._check(_END_SECONDS)
            self._on_event(f"{spec} could not be unregistered: {error}")

    def _registered(self, spec: ModelSpec) -> bool:
        return self._api.described(spec.name, spec.version, _END_SECONDS) is not None

    def _left(self) -> float:
        """Seconds for a call; a few, where one version has used up the time of all."""
        return max(left(self._deadline), _LEAST_SECONDS)

    def _loaded(self, spec: ModelSpec, died: set[str]) -> bool:
        if _key(spec) in died:
            cause, lines = self._cause(spec)
            quoted = quote(self._logs.workers, lines)
            raise VestalError("\n".join([f"model {spec} did not load: {cause}", *quoted]))
        description = self._call(spec, lambda: self._api.describe(spec, self._left()))
        states = [worker["status"] for worker in description["workers"]]
        ready = states.count("READY")
        if ready == len(states) and ready >= max(1, int(description["minWorkers"])):
            return True
        self._raise_if_late(
            lambda: f"model {spec}: {ready} of {len(states)} workers are READY",
            lambda: quote(self._logs.workers, self._logs.worker_lines(_key(spec))),
        )
        return False

    def _cause(self, spec: ModelSpec) -> tuple[str, list[str]]:
        """The worker's exception, and its lines up to there."""
        until = time.monotonic() + _LOG_LAG_SECONDS
        while True:
            lines = self._logs.worker_lines(_key(spec))
            if (at := exception_line(lines)) is not None:
                return lines[at], lines[: at + 1]
            if time.monotonic() > until:  # they reach the log a little after TorchServe's own
                return NO_EXCEPTION, lines
            time.sleep(_POLL_SECONDS)

    def _probe(self, spec: ModelSpec, sample: Sample | None) -> None:
        if sample is None:
            self._probe_foreign(spec)
            return
        answer = self._response(
            spec,
            lambda: self._api.predict(spec, sample.input, sample.content_type, self._left()),
        )
        if not answer.ok:
            raise self._failed(
                f"model {spec} did not answer its sample {sample.name}: {reason(answer)}", spec
            )
        value = value_of(answer.content, answer.headers.get("Content-Type", ""))
        difference = matches(sample.answer, value, sample.tolerance)
        if difference is not None:
            raise VestalError(
                f"model {spec} answers its sample {sample.name} otherwise than when it was packed: "
                f"{difference}. It was packed with other weights, code or packages: pack it again"
            )

    def _probe_foreign(self, spec: ModelSpec) -> None:
        """An archive without a sample: one of its workers must answer, whatever it says."""
        answer = self._response(
            spec, lambda: self._api.fence(spec.name, spec.version, self._left())
        )
        if not answer.ok and HANDLER_RAISED not in answer.text:  # many cannot describe themselves
            raise self._failed(f"model {spec} did not answer: {reason(answer)}", spec)

    def _response(
        self, spec: ModelSpec, call: Callable[[], requests.Response]
    ) -> requests.Response:
        """Send a request until it finds room: callers that waited for the server fill the queue."""
        responses: list[requests.Response] = []

        def found_room() -> bool:
            responses[:] = [self._call(spec, call)]
            return not queue_full(responses[0])

        self._wait(
            found_room,
            lambda: f"model {spec} did not answer: {reason(responses[0])}",
            lambda: quote(self._logs.workers, self._logs.worker_lines(_key(spec))),
        )
        return responses[0]

    def _failed(self, sentence: str, spec: ModelSpec) -> VestalError:
        lines = quote(self._logs.workers, self._logs.worker_lines(_key(spec)))
        return VestalError("\n".join([sentence, *lines]))

    def _call(self, spec: ModelSpec, call: Callable[[], Answer]) -> Answer:
        try:
            return call()
        except requests.Timeout:
            raise self._failed(
                f"model {spec} gave no answer in time (--timeout gives it longer)", spec
            ) from None
        except requests.RequestException as error:
            self._check(_END_SECONDS)
            raise VestalError(
                f"model {spec}: TorchServe broke off the connection ({error})"
            ) from None

    def _wait(
        self,
        condition: Callable[[], bool],
        complaint: Callable[[], str],
        lines: Callable[[], list[str]],
    ) -> None:
        while not condition():
            self._check(0)
            self._raise_if_late(complaint, lines)
            time.sleep(_POLL_SECONDS)

    def _raise_if_late(self, complaint: Callable[[], str], lines: Callable[[], list[str]]) -> None:
        if time.monotonic() > self._deadline:
            waited = time.monotonic() - self._started
            sentence = f"{complaint()} after {waited:.0f} s (--timeout gives it longer)"
            raise VestalError("\n".join([sentence, *lines()]))


def _key(spec: ModelSpec) -> str:
    """As TorchServe names the threads of a version."""
    return f"{spec.name}_{spec.version}"
