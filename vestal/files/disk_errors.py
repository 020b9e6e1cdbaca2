"""Errors of a full disk or a folder without write permission, as one sentence for the user."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vestal.errors import VestalError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EROFS, errno.EACCES, errno.EPERM}
# Libraries in C++ or Rust, and child processes, give only a message.
_FULL_MESSAGE = re.compile(
    r"No space left on device|Disk quota exceeded|\(os error (28|122|27)\)"
    r"|PytorchStreamWriter failed|inline_container\.cc.*(unexpected pos|file write failed)"
)
_TEST_BLOCK = b"\0" * (1 << 16)
_NEARLY_FULL = 1 << 28
"""Free bytes below which a disk may have been full when the error occurred."""


def write_test_block(folder: Path) -> None:
    """Write some bytes into a folder and remove them; raises OSError."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(_TEST_BLOCK)


def check_writable(folder: Path) -> None:
    """Raise VestalError if nothing can be written into a folder."""
    try:
        write_test_block(folder)
    except OSError as error:
        error.filename = error.filename or str(folder / "test")
        raise VestalError(
            describe_disk_error(error) or f"{folder} cannot be written to: {error}"
        ) from None


def describe_disk_error(error: BaseException, *, denied: bool = True) -> str | None:
    """Describe a full disk, or a folder that cannot be written to, in one sentence.

    Args:
        denied: describe missing permissions and read-only file systems too.

    Returns:
        None if neither the error nor its cause is of that kind.
    """
    for each in _causes(error):
        number = each.errno if isinstance(each, OSError) else None
        if number in _FULL or (number is None and _FULL_MESSAGE.search(str(each))):
            return _describe_full(each)
        if denied and number in _DENIED and isinstance(each, OSError) and each.filename:
            return _describe_denied(each)
    return None


def raise_if_disk_full(output: str, folder: Path) -> None:
    """Raise VestalError if a failed process printed that the disk of its folder was full."""
    if _FULL_MESSAGE.search(output) and shutil.disk_usage(folder).free < _NEARLY_FULL:
        raise VestalError(_describe_full(OSError(errno.ENOSPC, "", str(folder / "output"))))


def _describe_denied(error: OSError) -> str:
    path = Path(os.fsdecode(error.filename)).absolute()
    if not os.access(path, os.F_OK):
        path = _parent(error) or path
    if error.errno == errno.EROFS:
        return f"{path}: read-only file system. Choose a folder that you can write to"
    reason = os.strerror(error.errno or errno.EACCES).lower()
    return f"{path}: {reason}. Change its permissions, or choose another path"


def _describe_full(error: BaseException) -> str:
    folder = _parent(error) or _find_full_folder(list(_output_folders()))
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        where = f" in {folder}" if folder else ""
        return f"a file{where} is larger than this process may write (`ulimit -f`). Raise the limit"
    if folder is None:
        return "a disk is full: no space left on device. Free some space and try again"
    hint = ", or set TMPDIR to another folder" if _is_temporary(folder) else ""
    return f"the disk is full: no space left in {folder}. Free some space{hint}, and try again"


def _parent(error: BaseException) -> Path | None:
    """Return the closest existing folder of the file that could not be written."""
    # In errors of shutil, the first name is the source and the second the destination.
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if not name:
        return None
    folders = Path(os.fsdecode(name)).absolute().parents
    return next((folder for folder in folders if os.access(folder, os.F_OK)), None)


def _temp() -> Path:
    # tempfile.gettempdir() skips a full folder.
    return Path(os.environ.get("TMPDIR") or "/tmp").absolute()  # noqa: S108


def _is_temporary(folder: Path) -> bool:
    """Whether it is the temp folder, or one that Vestal or a library has created there."""
    temp = _temp()
    below = folder.relative_to(temp).parts[:1] if folder.is_relative_to(temp) else ("-",)
    return all(name.startswith(("vestal-", "tmp", "torch")) for name in below)


def _output_folders() -> Iterator[Path]:
    """Yield where commands write: the project, the temp folder, paths in the arguments."""
    from vestal.project import Project

    project = Project.here()
    yield from (project.root, _temp(), project.logs, project.state)
    yield from (project.runs, project.models, project.model_store)
    for argument in sys.argv[1:]:
        path = Path(argument.rpartition("=")[2])
        yield from (path, path.absolute().parent)


def _find_full_folder(folders: Sequence[Path]) -> Path | None:
    folders = [folder for folder in folders if folder.is_dir()]
    for folder in folders:
        try:
            write_test_block(folder)
        except OSError as error:
            if error.errno in _FULL:
                return folder.absolute()
    # The file that filled the disk may be gone by now: take the disk with the least space.
    free = [(shutil.disk_usage(folder).free, folder) for folder in folders]
    return min(free)[1].absolute() if free and min(free)[0] < _NEARLY_FULL else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
