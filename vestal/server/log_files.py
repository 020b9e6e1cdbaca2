"""Read log files that log4j2 rotates: the last lines, and new lines as they are written.

`model_log.log` is the newest file, `model_log.1.log` the one before it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

_POLL_SECONDS = 0.2


def rotated_files(path: Path) -> list[Path]:
    """Return the existing files of a log, oldest first."""
    number = re.compile(rf"{re.escape(path.stem)}\.([0-9]+){re.escape(path.suffix)}")
    matches = ((number.fullmatch(each.name), each) for each in path.parent.glob("*"))
    older = [(int(found[1]), each) for found, each in matches if found]
    files = [each for _, each in sorted(older, reverse=True)]
    return [*files, path] if path.exists() else files


def last_lines(path: Path, count: int, is_wanted: Callable[[str], bool]) -> list[str]:
    """Return the last `count` wanted lines of a log and its older files."""
    found: deque[str] = deque(maxlen=count)
    for file in rotated_files(path):
        try:
            with file.open(encoding="utf-8", errors="replace", newline="\n") as stream:
                found.extend(filter(is_wanted, (line.rstrip("\r\n") for line in stream)))
        except FileNotFoundError:
            continue  # rotated or removed meanwhile
    return list(found)


def new_lines(path: Path) -> Iterator[str]:
    """Yield lines that are written from now on, across rotations; never ends."""
    with contextlib.ExitStack() as files:
        stream = _open(path, files)
        if stream is not None:
            stream.seek(0, io.SEEK_END)
        partial = b""
        while True:
            stream = stream or _open(path, files)
            if stream is not None:
                # A rotation renames the file: what it got until then is read first.
                is_current = _is_same(stream, path)
                *lines, partial = (partial + stream.read()).split(b"\n")
                yield from (line.decode("utf-8", "replace").rstrip("\r") for line in lines)
                if not is_current:
                    files.close()
                    stream, partial = None, b""
                    continue
            time.sleep(_POLL_SECONDS)


def _open(path: Path, files: contextlib.ExitStack) -> io.BufferedReader | None:
    try:
        return files.enter_context(path.open("rb"))
    except FileNotFoundError:
        return None


def _is_same(stream: io.BufferedReader, path: Path) -> bool:
    opened = os.fstat(stream.fileno())
    try:
        current = path.stat()
    except FileNotFoundError:
        return False
    return opened.st_ino == current.st_ino and current.st_size >= stream.tell()
