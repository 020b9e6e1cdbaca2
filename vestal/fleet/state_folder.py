"""Files of `.vestal/state/`: synced to the disk, checked by a digest, mode 0600."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.files.disk_errors import describe_disk_error
from vestal.files.storage import scratch_folder

FORMAT = 1
_MAIN = "state.json"


class StateFolder:
    """state.json, the file before it, and the desired states by digest.

    Every method raises VestalError if a file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._main = folder / _MAIN
        self._previous = folder / f"{_MAIN}.previous"

    def read(self) -> tuple[dict[str, Any], list[str]]:
        """Return the content of state.json, and sentences about damage; empty at first.

        Damaged content is replaced by the file before it.

        Raises:
            VestalError: another version of Vestal has written it.
        """
        notices: list[str] = []
        for file in (self._main, self._previous):
            try:
                content = _parse(file.read_bytes(), file)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise VestalError(f"{file} cannot be read: {error.strerror or error}") from None
            except ValueError as error:
                notices.append(f"{file} is damaged ({error}) and was kept as {file.name}.damaged.")
                with _disk_errors(self._folder):
                    file.replace(file.with_name(f"{file.name}.damaged"))
                continue
            if file is not self._main:
                notices.append(f"The state was restored from {file}, which lacks the last change.")
            return content, notices
        if notices:
            notices.append("There is no earlier copy: the history and the desired state are lost.")
        return {}, notices

    def write(self, content: dict[str, Any]) -> None:
        """Replace state.json; the file before it stays as state.json.previous."""
        envelope = {"format": FORMAT, "sha256": _digest(_dump(content)), "content": content}
        self._write(self._main, json.dumps(envelope, indent=1).encode(), self._previous)

    def write_desired(self, content: bytes) -> str:
        """Write a desired state, if there is no equal one; return its digest."""
        digest = _digest(content)
        if self.read_desired(digest) is None:
            self._write(self._desired(digest), content)
        return digest

    def read_desired(self, digest: str) -> bytes | None:
        """Return a desired state; None if it is missing or damaged."""
        try:
            content = self._desired(digest).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            file = self._desired(digest)
            raise VestalError(f"{file} cannot be read: {error.strerror or error}") from None
        return content if _digest(content) == digest else None

    def remove_desired(self, *, except_for: Collection[str]) -> None:
        """Remove the desired states that no revision refers to."""
        with _disk_errors(self._folder):
            for file in (self._folder / "desired").glob("*.json"):
                if file.stem not in except_for:
                    file.unlink(missing_ok=True)

    def _desired(self, digest: str) -> Path:
        return self._folder / "desired" / f"{digest}.json"

    def _write(self, file: Path, content: bytes, previous: Path | None = None) -> None:
        with _disk_errors(file.parent):
            _make_folder(file.parent)
            with scratch_folder(file.parent, ".saving-") as scratch:
                new = scratch / file.name
                new.touch(mode=0o600)
                with new.open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                if previous is not None and file.exists():
                    file.replace(previous)
                new.replace(file)
            _sync_folder(file.parent)


def _parse(text: bytes, file: Path) -> dict[str, Any]:
    """Return the content.

    Raises:
        ValueError: it is damaged.
        VestalError: it has another format.
    """
    try:
        envelope = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(envelope, dict):
        raise ValueError("it is not an object")
    if isinstance(envelope.get("format"), int) and envelope["format"] != FORMAT:
        raise VestalError(
            f"{file} has format {envelope['format']}, and this version of Vestal expects {FORMAT}. "
            f"Use the version of Vestal that wrote it, or move {file.parent} away to start afresh"
        )
    content = envelope.get("content")
    if not isinstance(content, dict) or _digest(_dump(content)) != envelope.get("sha256"):
        raise ValueError("its digest does not match")
    return content


def _dump(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Write the names of the files in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(folder / _MAIN)
        raise VestalError(
            describe_disk_error(error) or f"the state in {folder} cannot be written: {error}"
        ) from None
