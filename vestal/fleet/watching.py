"""Follow a file, for `vestal serve --watch`: call a function when its content changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from vestal.errors import VestalError
from vestal.mar.index import sha256_of

_POLL_SECONDS = 1.0
_RETRY_SECONDS = 10.0
"""Interval of retries after a failure: a missing archive may be copied after the file."""


class FileWatcher:
    """Watches a file in a thread, from `start` to `stop`.

    The content is read every second, through symbolic links, so that it also notices a replaced
    file and the swapped links of a Kubernetes ConfigMap. A new content counts when it is the same
    in two reads: an editor may be writing it.

    Args:
        applied: sha256 of the content that was applied already.
        on_change: is called with the path; may raise VestalError, and is then called again later.
        on_problem: receives a sentence, once for each problem.
    """

    def __init__(
        self,
        path: Path,
        applied: str | None,
        on_change: Callable[[Path], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._path, self._on_change, self._on_problem = path, on_change, on_problem
        self._applied = applied
        self._seen = self._digest()
        self._problem: str | None = None
        self._retry_at: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vestal-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop watching and wait for a call in progress; a second call does nothing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            self._look()

    def _look(self) -> None:
        content = self._digest()
        is_stable, self._seen = content == self._seen, content
        if not is_stable:
            return
        if content is None:
            self._report(f"{self._path} is missing; what runs stays as it is")
        elif content != self._applied or self._is_due():
            self._applied, self._retry_at = content, None
            try:
                self._on_change(self._path)
            except VestalError as error:
                self._report(f"{self._path} was not applied: {error}")
                self._retry_at = time.monotonic() + _RETRY_SECONDS
            else:
                self._problem = None

    def _is_due(self) -> bool:
        return self._retry_at is not None and time.monotonic() >= self._retry_at

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            self._on_problem(problem)

    def _digest(self) -> str | None:
        try:
            return sha256_of(self._path)
        except OSError:
            return None
