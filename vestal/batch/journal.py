"""Finished rows of a batch run, in `<out>.journal`: lines of JSON that are only appended.

    {"run": {...}}                                    digests of the archive and the inputs
    {"index": 7, "status": 200, "answer": {...}}
    {"index": 8, "status": 400, "error": {"type": "InputError", "message": "..."}}

A killed process leaves at most one incomplete line, which the next run cuts off.
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
    """An append-only file of rows, open and locked inside its `with`.

    Attributes:
        run: digests by name; a journal with other digests is refused.
        statuses: status of every finished row, by its input's index; None for an unreadable file.
    """

    def __init__(self, file: Path, run: Mapping[str, Any]) -> None:
        self.file, self.run = file, dict(run)
        self.statuses: dict[int, int | None] = {}
        self._stream: IO[bytes] | None = None
        self._lock: FileLock | None = None

    def __enter__(self) -> Journal:
        """Open the journal and read the finished rows.

        Raises:
            UsageError: the journal belongs to other inputs or another archive.
            VestalError: another process is writing it.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.touch()
        self._lock = FileLock(self.file)
        try:
            locked = self._lock.acquire()
            self._stream = self.file.open("a+b")
            # A run that ended between `touch` and `open` has removed the locked file.
            same = os.path.samestat(os.fstat(self._stream.fileno()), os.fstat(self._lock.fileno()))
            if not locked or not same:
                raise VestalError(
                    f"another vestal batch is writing {self.file}: wait until it ends"
                )
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
        """Append rows; after the call, they survive the death of this process."""
        assert self._stream is not None
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._stream.write(text.encode("utf-8", "surrogatepass"))
        self._stream.flush()
        self.statuses.update((row["index"], row["status"]) for row in rows)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield all rows, in the order of their inputs."""
        positions: dict[int, int] = {}
        with self.file.open("rb") as stream:
            position = len(stream.readline())
            for line in stream:
                positions[json.loads(line.decode("utf-8", "surrogatepass"))["index"]] = position
                position += len(line)
            for index in sorted(positions):
                stream.seek(positions[index])
                row: dict[str, Any] = json.loads(stream.readline().decode("utf-8", "surrogatepass"))
                yield row

    def remove(self) -> None:
        self.file.unlink()

    def _recover(self, stream: IO[bytes]) -> None:
        stream.seek(0)
        size = 0  # of the complete lines
        for line in stream:
            if not line.endswith(b"\n"):
                break
            row = json.loads(line.decode("utf-8", "surrogatepass"))
            if size == 0:
                self._check(row.get("run"))
            else:
                self.statuses[row["index"]] = row["status"]
            size += len(line)
        stream.truncate(size)
        if size == 0:
            stream.write(json.dumps({"run": self.run}).encode() + b"\n")
            stream.flush()

    def _check(self, run: Any) -> None:
        if run == self.run:
            return
        before = run if isinstance(run, dict) else {}
        different = [name for name in self.run if before.get(name) != self.run[name]]
        raise UsageError(
            f"{self.file} belongs to an unfinished run with different {' and '.join(different)}. "
            "Remove it to start again, or choose another --out"
        )
