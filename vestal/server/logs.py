"""TorchServe's logs, read for what went wrong; `configuration/log4j2.xml` has their format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TAIL = 20
_RETRY = re.compile(r"W-\d+-(\S+) org\.pytorch\.serve\.wlm\.WorkerThread - Retry worker")
_WORKER = re.compile(r"\S+ \[\w+ *\] W-\d+-(\S+)-(?:stdout|stderr) MODEL_LOG - (.*)")
_BIND = re.compile(r"Failed to bind to address:? \S*:(\d+)")
_TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True)
class Logs:
    """The log files in `folder`; what was written before `since` (a time) is not read."""

    folder: Path
    since: float

    @property
    def console(self) -> Path:
        """What Java itself prints."""
        return self.folder / "console.log"

    @property
    def torchserve(self) -> Path:
        return self.folder / "ts_log.log"

    @property
    def workers(self) -> Path:
        return self.folder / "model_log.log"

    def lines(self, path: Path) -> list[str]:
        try:
            if path.stat().st_mtime < self.since:  # not rolled over yet: the run before wrote it
                return []
            return path.read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def died(self) -> set[str]:
        """The versions (`mnist_1.0`) of which a worker died: describe only says "UNLOADING"."""
        return {found[1] for found in map(_RETRY.search, self.lines(self.torchserve)) if found}

    def worker_lines(self, version: str) -> list[str]:
        """What the workers of a version (`mnist_1.0`) printed."""
        found = map(_WORKER.match, self.lines(self.workers))
        return [line[2] for line in found if line and line[1] == version]

    def unbound_port(self) -> int | None:
        """The port that TorchServe could not listen on."""
        for line in [*self.lines(self.console), *self.lines(self.torchserve)]:
            if found := _BIND.search(line):
                return int(found[1])
        return None

    def why_ended(self) -> list[str]:
        """The end of TorchServe's log; of what Java printed, where it did not come that far."""
        path = self.torchserve if self.lines(self.torchserve) else self.console
        return quote(path, self.lines(path))


def exception_line(lines: Sequence[str]) -> int | None:
    """Where the last exception of a worker's tracebacks stands (`ValueError: no weights`)."""
    last = None
    inside = False
    for at, line in enumerate(lines):
        if line.startswith(_TRACEBACK):
            inside = True
        elif inside and line and not line.startswith(" "):
            inside = False
            # A handler that cannot be imported is looked for among TorchServe's own: what that
            # search says hides the cause.
            if "No module named 'ts.torch_handler." not in line:
                last = at
    return last


def quote(path: Path, lines: Iterable[str]) -> list[str]:
    """The last lines of a log under its name, for the end of a message."""
    last = [f"    {line}" for line in list(lines)[-TAIL:]]
    return [f"The end of {path}:", *last] if last else [f"{path} says nothing of it."]
