"""Writing files whole, and errors of the file system in one sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vestal.errors import VestalError
from vestal.files.locks import FileLock

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}
# Libraries that write in C++ or Rust, and programs that were started, have only a text.
_FULL_TEXT = re.compile(
    r"No space left on device|Disk quota exceeded|\(os error (28|122|27)\)"
    r"|PytorchStreamWriter failed|inline_container\.cc.*(unexpected pos|file write failed)"
)
_PROBE = b"\0" * (1 << 16)
_LITTLE = 1 << 28
"""Bytes: a disk with less than that may have been full a moment ago."""
_FRESH_SECONDS = 60.0
"""A folder may be younger than that and not yet locked by the process that has made it."""


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder to prepare something in that is then moved to its place beside it by one rename.

    What killed processes have left under the same prefix is removed.
    """
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as made, _held(Path(made)):
        for left in parent.glob(f"{prefix}*"):
            _remove_unlocked(left)
        yield Path(made)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Locks a folder; False where another process holds it, or where there are no locks."""
    with contextlib.ExitStack() as stack:
        held = False
        with contextlib.suppress(ImportError, OSError):
            lock = FileLock(folder)
            stack.callback(lock.release)
            held = lock.acquire()
        yield held


def _remove_unlocked(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another process has just removed it
        if time.time() - folder.stat().st_mtime < _FRESH_SECONDS:
            return
        with _held(folder) as unlocked:
            if unlocked:
                shutil.rmtree(folder)


@contextmanager
def whole(file: Path) -> Iterator[Path]:
    """Gives a path to write to; the file then appears whole, or not at all after an error."""
    with scratch_folder(file.parent, ".saving-") as scratch:
        # The same name: torch writes it into some of its formats.
        fresh = scratch / file.name
        yield fresh
        if not fresh.exists():  # a library that only logs what failed
            _probe(file.parent)
        fresh.replace(file)


def write_text(file: Path, text: str) -> None:
    """Writes a UTF-8 file whole or not at all."""
    with whole(file) as fresh:
        fresh.write_text(text, "utf-8")


def check_room(folder: Path) -> None:
    """Raises VestalError where nothing can be written into a folder."""
    try:
        _probe(folder)
    except OSError as error:
        error.filename = error.filename or str(folder / "probe")
        raise VestalError(problem(error) or f"{folder} cannot be written to: {error}") from None


def problem(error: BaseException, *, denied: bool = True) -> str | None:
    """One sentence if an error, or what caused it, is a full disk or, if `denied`, a folder that
    cannot be written to; else None."""
    for each in _chain(error):
        number = each.errno if isinstance(each, OSError) else None
        if number in _FULL or (number is None and _FULL_TEXT.search(str(each))):
            return _full(each)
        if denied and number in _DENIED and isinstance(each, OSError) and each.filename:
            return _denied(each)
    return None


def _denied(error: OSError) -> str:
    path = Path(os.fsdecode(error.filename)).absolute()
    if not os.access(path, os.F_OK):
        path = _parent(error) or path
    if error.errno == errno.EROFS:
        return f"{path}: read-only file system. Choose a folder that you can write to"
    reason = os.strerror(error.errno or errno.EACCES).lower()
    return f"{path}: {reason}. Change its permissions, or choose another path"


def raise_if_disk_full(output: str, folder: Path) -> None:
    """Raise VestalError if a failed process reported a full disk and `folder` has little room."""
    if _FULL_TEXT.search(output) and shutil.disk_usage(folder).free < _LITTLE:
        raise VestalError(_full(OSError(errno.ENOSPC, "", str(folder / "output"))))


def _full(error: BaseException) -> str:
    folder = _parent(error) or _full_folder(list(_places()))
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        where = f" in {folder}" if folder else ""
        return f"a file{where} is larger than this process may write (`ulimit -f`): raise the limit"
    if folder is None:
        return "a disk is full: no space left on device. Free some space and try again"
    hint = ", or set TMPDIR to another folder" if _in_temp(folder) else ""
    return f"the disk is full: no space left in {folder}. Free some space{hint}, and try again"


def _parent(error: BaseException) -> Path | None:
    """The folder of the file that could not be written, as far as it is still there."""
    # shutil names what it reads first, and then what it writes.
    named = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if not named:
        return None
    folders = Path(os.fsdecode(named)).absolute().parents
    return next((folder for folder in folders if os.access(folder, os.F_OK)), None)


def _temp() -> Path:
    # tempfile passes a full folder over and takes another one.
    return Path(os.environ.get("TMPDIR") or "/tmp").absolute()  # noqa: S108


def _in_temp(folder: Path) -> bool:
    """The temp folder, or one that Vestal or a library has made there."""
    temp = _temp()
    below = folder.relative_to(temp).parts[:1] if folder.is_relative_to(temp) else ("-",)
    return all(name.startswith(("vestal-", "tmp", "torch")) for name in below)


def _places() -> Iterator[Path]:
    """Where commands write: the project, the temp folder, and what the arguments name."""
    from vestal.project import Project

    project = Project.here()
    yield from (project.root, _temp(), project.logs, project.state)
    yield from (project.runs, project.models, project.model_store)
    for argument in sys.argv[1:]:
        path = Path(argument.rpartition("=")[2])
        yield from (path, path.absolute().parent)


def _full_folder(places: Sequence[Path]) -> Path | None:
    for place in places:
        if place.is_dir():
            try:
                _probe(place)
            except OSError as error:
                if error.errno in _FULL:
                    return place.absolute()
    # What filled it is gone again: the smallest rest.
    rest = [(shutil.disk_usage(place).free, place) for place in places if place.is_dir()]
    return min(rest)[1].absolute() if rest and min(rest)[0] < _LITTLE else None


def _probe(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(_PROBE)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or following.__context__
