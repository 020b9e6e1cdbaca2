"""Unpack an archive, to load it or to compare it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vestal.errors import UsageError
from vestal.mar.findings import Severity
from vestal.mar.layout import MANIFEST, served_folder
from vestal.mar.opening import open_archive


def is_unpacked(folder: Path) -> bool:
    """Whether it is the folder of an archive, or contains only that."""
    return folder.is_dir() and (served_folder(folder) / MANIFEST).is_file()


@contextmanager
def unpack_archive(archive: Path) -> Iterator[Path]:
    """The folder itself, or the temporary one of a .mar or a .tar.gz, checked as it is unpacked.

    Raises:
        UsageError: it does not exist, is not an archive, or is unsafe.
    """
    if archive.is_dir():
        yield served_folder(archive)
        return
    with open_archive(archive) as (contents, findings):
        if contents is None:
            errors = [each for each in findings if each.severity is Severity.ERROR]
            reason = "; ".join(f"{each.where} {each.meaning}".strip() for each in errors)
            raise UsageError(
                f"{archive} cannot be unpacked: {reason} (`vestal check` has more details)"
            )
        yield contents.folder
