"""The start of a server, for its user: what is being loaded, and what cannot be served."""

from __future__ import annotations

from collections.abc import Callable

from vestal.errors import VestalError
from vestal.fleet.initial import Initial
from vestal.fleet.keeper import Keeper
from vestal.fleet.status import EventKind
from vestal.fleet.steps import Problem, Register, Step, Verify
from vestal.server.spec import FailedArchive, no_archive_error

_POLL_SECONDS = 0.2


class StartReport:
    """Prints the keeper's events, and collects the archives that cannot be served.

    Args:
        strict: raise an error for the first of them.
    """

    def __init__(self, initial: Initial, on_event: Callable[[str], None], *, strict: bool) -> None:
        self._initial, self._on_event, self._strict = initial, on_event, strict
        self._of_the_only_archive: str | None = None
        for each in initial.failed:
            if strict:
                raise each.error
            on_event(f"{each.archive} is not served: {each.error}")

    def print(self, keeper: Keeper, kind: EventKind, text: str, step: Step | None) -> None:
        """Print an event; at the start, only what a user waits for."""
        if not keeper.starting:
            self._on_event(text)
        elif kind == "failed" and step is not None:
            self._print_failure(step, keeper.failures[step.model, step.version])
        elif (kind, type(step)) in {("started", Register), ("done", Verify)} or kind == "note":
            self._on_event(text)

    def wait(self, keeper: Keeper) -> list[FailedArchive]:
        """Wait until every version is served or has failed; return those that have.

        Raises:
            StopRequested: a command stops the server.
            VestalError: no version can be served; if `strict`, one cannot.
        """
        while not keeper.wait_until_converged(_POLL_SECONDS):
            if self._strict and keeper.failures:
                break
        failures = dict(keeper.failures)
        for problem in keeper.problems:
            key = problem.model, problem.version
            if key not in failures:
                failures[key] = VestalError(f"{problem.model} {problem.version}: {problem.reason}")
                self._print_failure(problem, failures[key])
        if self._strict:
            for error in failures.values():
                raise error
        failed = [FailedArchive(self._archive(*key), error) for key, error in failures.items()]
        failed = [*self._initial.failed, *failed]
        if not keeper.observed and self._initial.desired.models:
            raise no_archive_error(failed)
        if self._of_the_only_archive is not None:  # an earlier version serves
            self._on_event(self._of_the_only_archive)
        return failed

    def _print_failure(self, failed: Step | Problem, error: VestalError) -> None:
        """Print why an archive is not served; the only one at the end, unless it is raised."""
        if self._strict:
            return
        text = f"{self._archive(failed.model, failed.version)} is not served: {error}"
        models = self._initial.desired.models.values()
        if sum(len(model.versions) for model in models) + len(self._initial.failed) == 1:
            self._of_the_only_archive = text
        else:
            self._on_event(text)

    def _archive(self, name: str, version: str) -> str:
        target = self._initial.desired.models.get(name)
        found = target.versions.get(version) if target else None
        return found.archive if found else f"{name} {version}"
