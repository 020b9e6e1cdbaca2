"""From an archive's path to a folder of plain files, which is all that the checks read.

A zip and a tar are judged by their directory first, then unpacked into a folder of ours with
every byte counted; a folder is judged and read in place.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vestal.errors import UsageError, VestalError
from vestal.mar import tars, zips
from vestal.mar.findings import Findings
from vestal.mar.layout import served_folder
from vestal.mar.names import judge_names, safe_name

GZIP, ZIP = b"\x1f\x8b", b"PK"
TEXT_LIMIT = 4_000_000  # bytes of a source or a manifest; more is no text that a person wrote


@dataclass(frozen=True)
class Contents:
    """An archive's files: `names` (with slashes, sorted) below `folder`."""

    folder: Path
    names: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def path(self, name: str) -> Path:
        return self.folder / name

    def bytes(self, name: str) -> bytes:
        """Raises ValueError for what is too long to be a text."""
        path = self.path(name)
        if path.stat().st_size > TEXT_LIMIT:
            raise ValueError(f"is longer than {TEXT_LIMIT:,} bytes")
        return path.read_bytes()

    def text(self, name: str) -> str:
        """Raises ValueError for what is too long, or not UTF-8."""
        return self.bytes(name).decode("utf-8")


@contextmanager
def opened(archive: Path, found: Findings) -> Iterator[Contents | None]:
    """The archive's files; None where it is not safe or not possible to unpack it.

    Raises:
        UsageError: there is nothing at that path, or it cannot be read.
        VestalError: no room to unpack it.
    """
    if archive.is_dir():
        yield _folder(archive, found)
        return
    try:
        with archive.open("rb") as stream:
            head = stream.read(4)
    except OSError as error:
        raise UsageError(f"{archive} cannot be read ({error.strerror}): give an archive") from None
    kind = "tar" if head.startswith(GZIP) else "zip"
    if head.startswith((GZIP, ZIP)):  # what is neither is told below
        _check_name(archive, kind, found)
    with tempfile.TemporaryDirectory(prefix="vestal-check-") as scratch:
        target = Path(scratch)
        room = shutil.disk_usage(target).free
        try:
            names = (tars if kind == "tar" else zips).unpack(archive, target, room, found)
        except zips.NoRoom as error:
            raise VestalError(
                f"{archive} unpacks to {error.needed / 1e9:.1f} GB and {target.parent} has "
                f"{room / 1e9:.1f} GB: set TMPDIR to a larger disk"
            ) from None
        except (*zips.BROKEN, *tars.BROKEN) as error:
            found.error(
                "not-an-archive",
                "",
                f"it cannot be read as a {'.tar.gz' if kind == 'tar' else 'zip'}: {error}",
                "make it again with vestal pack or torch-model-archiver; a copy may be cut off",
            )
            names = None
        yield None if names is None else Contents(target, tuple(sorted(names)))


def _check_name(archive: Path, kind: str, found: Findings) -> None:
    # org.pytorch.serve.archive: a name that ends in .mar is a zip, everything else a .tar.gz.
    if (archive.suffix == ".mar") != (kind == "zip"):
        found.error(
            "file-name",
            "",
            f"this is a {'zip' if kind == 'zip' else '.tar.gz'}, and TorchServe takes a file of "
            f"this name for a {'.tar.gz' if kind == 'zip' else 'zip'}",
            f"rename it to {_stem(archive.name)}.{'mar' if kind == 'zip' else 'tar.gz'}",
        )


def _unread(name: str, found: Findings) -> None:
    found.error(
        "unread", name, "it cannot be read here", f"give yourself the right: chmod u+r {name}"
    )


def _stem(name: str) -> str:
    """`mnist-1.0` of mnist-1.0.zip, mnist-1.0.tar.gz, mnist-1.0."""
    for suffix in (".tar.gz", ".tgz", ".tar", ".zip", ".mar"):
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name


def _folder(folder: Path, found: Findings) -> Contents | None:
    folder = served_folder(folder)
    names, bad = [], len(found.items)
    root = folder.resolve()

    def closed(error: OSError) -> None:
        _unread(os.path.relpath(error.filename, folder), found)

    for place, folders, files in os.walk(folder, onerror=closed):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for file in sorted([*files, *(name for name in folders if Path(place, name).is_symlink())]):
            path = Path(place, file)
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                found.error(
                    "link",
                    name,
                    f"a link to {path.readlink()}, outside of the model's folder",
                    "put a copy of the file in its place",
                )
            elif path.is_dir():
                continue
            elif not path.exists() or not stat.S_ISREG(path.stat().st_mode):
                found.error(
                    "special-file", name, "neither a file nor a folder", "take it out of the folder"
                )
            elif safe_name(name) is None or "\\" in name:
                judge_names([name], found)
            elif not os.access(path, os.R_OK):
                _unread(name, found)
            else:
                names.append(name)
    return None if len(found.items) > bad else Contents(folder, tuple(sorted(names)))
