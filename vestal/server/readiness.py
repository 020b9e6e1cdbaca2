"""From a TorchServe that listens to one that is ready: registered, loaded, probed.

TorchServe's own signs do not tell: /ping says Healthy while models load and while they crash, and
requests to a model that failed to load hang without an answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import requests

from vestal.archive.sample import Sample, matches, read_sample, value_of
from vestal.errors import VestalError
from vestal.server.api import Api, left, reason
from vestal.server.logs import Logs, exception_line, quote
from vestal.server.spec import ModelSpec

_POLL_SECONDS = 0.1
_END_SECONDS = 10.0
"""Until the end of TorchServe is reported, after its connections broke."""
_LOG_LAG_SECONDS = 1.0


HANDLER_RAISED = "Prediction failed"
"""TorchServe's message when a handler raised: then a worker did answer."""
NO_EXCEPTION = (
    "its worker ended without an exception (killed, out of memory, or over its startupTimeout?)"
)

Answer = TypeVar("Answer")


class Readiness:
    """Brings models up within one deadline (time.monotonic).

    `check`: raises when TorchServe ends within so many seconds; `on_event` hears each step.
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

    def bring_up(self, specs: Sequence[ModelSpec]) -> None:
        """Registers all, waits until every worker is READY, and probes every version.

        Raises VestalError with the last lines of the right log as soon as one of them fails.
        """
        self._wait(self._api.answers, lambda: "TorchServe does not answer", self._logs.why_ended)
        samples = [(spec, read_sample(spec.archive)) for spec in specs]
        for spec in specs:
            self._on_event(f"loading {spec} from {spec.archive.name}")
            self._register(spec)
        for spec, sample in samples:
            self._wait_for_workers(spec, specs)
            self._probe(spec, sample)
            self._on_event(f"{spec} is ready")

    def _register(self, spec: ModelSpec) -> None:
        self._call(spec, lambda: self._api.register(spec, left(self._deadline)))

    def _wait_for_workers(self, spec: ModelSpec, specs: Sequence[ModelSpec]) -> None:
        states: list[str] = []

        def loaded() -> bool:
            self._raise_if_died(specs)
            description = self._call(spec, lambda: self._api.describe(spec, left(self._deadline)))
            states[:] = [worker["status"] for worker in description["workers"]]
            ready = states.count("READY")
            return ready == len(states) and ready >= max(1, int(description["minWorkers"]))

        self._wait(
            loaded,
            lambda: f"model {spec}: {states.count('READY')} of {len(states)} workers are READY",
            lambda: quote(self._logs.workers, self._logs.worker_lines(_key(spec))),
        )

    def _raise_if_died(self, specs: Sequence[ModelSpec]) -> None:
        died = self._logs.died()
        for spec in specs:
            if _key(spec) in died:
                cause, lines = self._cause(spec)
                quoted = quote(self._logs.workers, lines)
                raise VestalError("\n".join([f"model {spec} did not load: {cause}", *quoted]))

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
        answer = self._call(
            spec,
            lambda: self._api.predict(
                spec, sample.input, sample.content_type, left(self._deadline)
            ),
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
        answer = self._call(spec, lambda: self._api.fence(spec, left(self._deadline)))
        if not answer.ok and HANDLER_RAISED not in answer.text:  # many cannot describe themselves
            raise self._failed(f"model {spec} did not answer: {reason(answer)}", spec)

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
            if time.monotonic() > self._deadline:
                waited = time.monotonic() - self._started
                sentence = f"{complaint()} after {waited:.0f} s (--timeout gives it longer)"
                raise VestalError("\n".join([sentence, *lines()]))
            time.sleep(_POLL_SECONDS)


def _key(spec: ModelSpec) -> str:
    """As TorchServe names the threads of a version."""
    return f"{spec.name}_{spec.version}"
