"""Find errors in TorchServe's logs, whose format is set by `configuration/log4j2.xml`."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

TAIL = 20
"""Lines of a log in a message."""
_THREAD = r"(W-\d+-(\S+)) org\.pytorch\.serve\.wlm\.WorkerThread - "
_RETRY = re.compile(_THREAD + "Retry worker")
_RECOVERY = re.compile(_THREAD + "(Retry worker|Connecting to|Auto recovery failed again)")
_WORKER = re.compile(
    r"(?P<time>\S+) \[\w+ *\] (?P<worker>W-\d+)-(?P<key>\S+)-(?:stdout|stderr) "
    r"MODEL_LOG - (?P<text>.*)"
)
_BIND = re.compile(r"Failed to bind to address:? \S*:(\d+)")
_TRACEBACK = "Traceback (most recent call last):"


class WorkerLine(NamedTuple):
    """A line that a worker printed. `key`: its version in TorchServe's logs (`mnist_1.0`)."""

    time: str
    key: str
    worker: str
    text: str

    @classmethod
    def parse(cls, line: str) -> WorkerLine | None:
        """Return None for any other line."""
        found = _WORKER.match(line)
        return found and cls(found["time"], found["key"], found["worker"], found["text"])


@dataclass(frozen=True)
class Logs:
    """The log files in a folder.

    Attributes:
        since: files that are older than this time are not read.
        starts: for each file, its inode and the position from which it is read.
    """

    folder: Path
    since: float
    starts: Mapping[Path, tuple[int, int]] = field(default_factory=dict)

    def from_now(self) -> Logs:
        """Return the same logs without the lines until now."""
        starts = {}
        for path in (self.torchserve, self.workers):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                starts[path] = status.st_ino, status.st_size
        return replace(self, starts=starts)

    @property
    def console(self) -> Path:
        """Output of the Java process."""
        return self.folder / "console.log"

    @property
    def torchserve(self) -> Path:
        return self.folder / "ts_log.log"

    @property
    def workers(self) -> Path:
        return self.folder / "model_log.log"

    def lines(self, path: Path) -> list[str]:
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_mtime < self.since:  # written by the previous run
                    return []
                inode, start = self.starts.get(path, (0, 0))
                if inode == status.st_ino:  # not rotated
                    file.seek(start)
                return file.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []

    def deaths(self) -> Counter[tuple[str, str]]:
        """Count the deaths of each worker, by its version (`mnist_1.0`) and id.

        TorchServe's API does not tell. An id is used once: another registration has other ids.
        """
        found = map(_RETRY.search, self.lines(self.torchserve))
        return Counter((each[2], _id(each[1])) for each in found if each)

    def workers_given_up(self) -> set[tuple[str, str]]:
        """Return the version (`mnist_1.0`) and id of each worker that is not restarted any more.

        TorchServe gives up after maxRetryTimeoutInSec; its API still lists the worker.
        """
        last: dict[str, re.Match[str]] = {}
        for found in map(_RECOVERY.search, self.lines(self.torchserve)):
            if found:
                last[found[1]] = found
        return {
            (found[2], _id(found[1]))
            for found in last.values()
            if found[3].startswith("Auto recovery failed")
        }

    def worker_lines(self, version: str, workers: Collection[str] | None = None) -> list[str]:
        """Return the output of a version's workers (`mnist_1.0`), or of those with these ids."""
        parsed = filter(None, map(WorkerLine.parse, self.lines(self.workers)))
        return [
            line.text
            for line in parsed
            if line.key == version and (workers is None or _id(line.worker) in workers)
        ]

    def unbound_port(self) -> int | None:
        """Return the port that TorchServe could not bind; None if there is none."""
        for line in [*self.lines(self.console), *self.lines(self.torchserve)]:
            if found := _BIND.search(line):
                return int(found[1])
        return None

    def server_tail(self) -> list[str]:
        """Return the end of TorchServe's log, or of Java's output if there is no log yet."""
        path = self.torchserve if self.lines(self.torchserve) else self.console
        return tail(path, self.lines(path))


def _id(thread: str) -> str:
    """Return the id of a worker from the name of its thread, `W-9000-mnist_1.0`."""
    return thread.split("-", 2)[1]


def exception_line(lines: Sequence[str]) -> int | None:
    """Return the index of the last exception in a worker's output (`ValueError: no weights`)."""
    last = None
    in_traceback = False
    for index, line in enumerate(lines):
        if line.startswith(_TRACEBACK):
            in_traceback = True
        elif in_traceback and line and not line.startswith(" "):
            in_traceback = False
            # If a handler cannot be imported, TorchServe also tries its own handlers of that name.
            if "No module named 'ts.torch_handler." not in line:
                last = index
    return last


def tail(path: Path, lines: Iterable[str]) -> list[str]:
    """Return the last lines of a log with a heading, for the end of a message."""
    last = [f"    {line}" for line in list(lines)[-TAIL:]]
    return [f"End of {path}:", *last] if last else [f"{path} has no lines about it."]
