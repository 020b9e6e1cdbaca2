"""What is done of a run, beside its output: `<out>.journal`, a line of JSON each, only ever added.

    {"run": {...}}                                    what it is a run of
    {"index": 7, "status": 200, "answer": {...}}
    {"index": 8, "status": 400, "error": {"type": "InputError", "message": "..."}}

A process that is killed leaves at most one line that is not whole; it is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from vestal.errors import UsageError, VestalError
from vestal.files.locks import FileLock


class Journal:
    """Open for adding, and locked, inside its `with`.

    `file`: where. `about`: what it is a run of; a journal of another run is refused.
    """

    def __init__(self, file: Path, about: Mapping[str, Any]) -> None:
        self.file, self.about = file, dict(about)
        self.done: dict[int, int | None] = {}  # status by index
        self._stream: IO[bytes] | None = None
        self._lock: FileLock | None = None

    def __enter__(self) -> Journal:
        """Reads what is done.

        Raises:
            UsageError: it is a journal of other inputs, or of another archive.
            VestalError: another process is at it.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.touch()
        self._lock = FileLock(self.file)
        try:
            locked = self._lock.acquire()
            self._stream = self.file.open("a+b")
            # A run that ended between the two removed the file that is locked here.
            same = os.path.samestat(os.fstat(self._stream.fileno()), os.fstat(self._lock.fileno()))
            if not locked or not same:
                raise VestalError(f"another vestal batch writes {self.file}: wait for it")
            self._recover(self._stream)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._lock is not None:
            self._lock.release()

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds rows; they outlive this process when it returns."""
        assert self._stream is not None
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._stream.write(text.encode("utf-8", "surrogatepass"))
        self._stream.flush()
        self.done.update((row["index"], row["status"]) for row in rows)

    def rows(self) -> Iterator[dict[str, Any]]:
        """All rows, in the order of their inputs."""
        places: dict[int, int] = {}
        with self.file.open("rb") as stream:
            position = len(stream.readline())
            for line in stream:
                places[json.loads(line.decode("utf-8", "surrogatepass"))["index"]] = position
                position += len(line)
            for index in sorted(places):
                stream.seek(places[index])
                row: dict[str, Any] = json.loads(stream.readline().decode("utf-8", "surrogatepass"))
                yield row

    def remove(self) -> None:
        self.file.unlink()

    def _recover(self, stream: IO[bytes]) -> None:
        stream.seek(0)
        whole = 0
        for line in stream:
            if not line.endswith(b"\n"):
                break
            row = json.loads(line.decode("utf-8", "surrogatepass"))
            if whole == 0:
                self._check(row.get("run"))
            else:
                self.done[row["index"]] = row["status"]
            whole += len(line)
        stream.truncate(whole)
        if whole == 0:
            stream.write(json.dumps({"run": self.about}).encode() + b"\n")
            stream.flush()

    def _check(self, about: Any) -> None:
        if about == self.about:
            return
        known = about if isinstance(about, dict) else {}
        other = [name for name in self.about if known.get(name) != self.about[name]]
        raise UsageError(
            f"{self.file} is of an unfinished run with another {' and other '.join(other)}: "
            "remove it to begin again, or choose another --out"
        )
