"""Open an archive as a folder of plain files.

A zip or a tar is checked before it is unpacked into a temporary folder, with every byte counted;
a folder is checked and read in place.
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
from vestal.mar.findings import Finding
from vestal.mar.layout import served_folder
from vestal.mar.names import check_names, safe_name

GZIP, ZIP = b"\x1f\x8b", b"PK"
TEXT_LIMIT = 4_000_000  # bytes of a source or a manifest; people write no longer ones


@dataclass(frozen=True)
class Contents:
    """The files of an archive: `names`, sorted and with slashes, in `folder`."""

    folder: Path
    names: tuple[str, ...]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def path(self, name: str) -> Path:
        return self.folder / name

    def bytes(self, name: str) -> bytes:
        """Raises ValueError if the file is longer than TEXT_LIMIT."""
        path = self.path(name)
        if path.stat().st_size > TEXT_LIMIT:
            raise ValueError(f"is longer than {TEXT_LIMIT:,} bytes")
        return path.read_bytes()

    def text(self, name: str) -> str:
        """Raises ValueError if the file is longer than TEXT_LIMIT or not UTF-8."""
        return self.bytes(name).decode("utf-8")


@contextmanager
def open_archive(archive: Path) -> Iterator[tuple[Contents | None, list[Finding]]]:
    """The files of an archive, and what is wrong with its container.

    There are no files if the archive is unsafe or cannot be unpacked.

    Raises:
        UsageError: the path does not exist, or cannot be read.
        VestalError: the disk has no room to unpack the archive.
    """
    if archive.is_dir():
        yield _open_folder(archive)
        return
    try:
        with archive.open("rb") as stream:
            head = stream.read(4)
    except OSError as error:
        raise UsageError(f"{archive} cannot be read ({error.strerror}): pass an archive") from None
    kind = "tar" if head.startswith(GZIP) else "zip"
    findings: list[Finding] = []
    # TorchServe's class ModelArchive: a name that ends in .mar is a zip, any other a .tar.gz.
    if head.startswith((GZIP, ZIP)) and (archive.suffix == ".mar") != (kind == "zip"):
        findings.append(_wrong_name(archive, kind))
    with tempfile.TemporaryDirectory(prefix="vestal-check-") as scratch:
        target = Path(scratch)
        room = shutil.disk_usage(target).free
        contents = None
        try:
            names = (tars if kind == "tar" else zips).unpack(archive, target, room)
            contents = Contents(target, tuple(sorted(names)))
        except zips.UnsafeArchive as error:
            findings += error.findings
        except zips.NoRoom as error:
            raise VestalError(
                f"{archive} unpacks to {error.needed / 1e9:.1f} GB and {target.parent} has "
                f"{room / 1e9:.1f} GB: set TMPDIR to a folder on a larger disk"
            ) from None
        except (*zips.BROKEN, *tars.BROKEN) as error:
            meaning = f"it cannot be read as a {'.tar.gz' if kind == 'tar' else 'zip'}: {error}"
            todo = (
                "create it again with vestal pack or torch-model-archiver; a copy may be truncated"
            )
            findings.append(Finding.error("not-an-archive", "", meaning, todo))
        yield contents, findings


def _wrong_name(archive: Path, kind: str) -> Finding:
    is_zip = kind == "zip"
    return Finding.error(
        "file-name",
        "",
        f"the file is a {'zip' if is_zip else '.tar.gz'}, but TorchServe reads a file with this "
        f"name as a {'.tar.gz' if is_zip else 'zip'}",
        f"rename it to {_stem(archive.name)}.{'mar' if is_zip else 'tar.gz'}",
    )


def _stem(name: str) -> str:
    """`mnist-1.0` for mnist-1.0.zip, mnist-1.0.tar.gz and mnist-1.0."""
    for suffix in (".tar.gz", ".tgz", ".tar", ".zip", ".mar"):
        if name.endswith(suffix) and name != suffix:
            return name.removesuffix(suffix)
    return name


def _open_folder(folder: Path) -> tuple[Contents | None, list[Finding]]:
    folder = served_folder(folder)
    root, names = folder.resolve(), []
    findings: list[Finding] = []

    def add_unread(error: OSError) -> None:
        findings.append(_unread(os.path.relpath(error.filename, folder)))

    for place, folders, files in os.walk(folder, onerror=add_unread):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for file in sorted([*files, *(name for name in folders if Path(place, name).is_symlink())]):
            path = Path(place, file)
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                meaning = f"a link to {path.readlink()}, outside of the model's folder"
                todo = "replace the link by a copy of the file"
                findings.append(Finding.error("link", name, meaning, todo))
            elif path.is_dir():
                continue
            elif not path.exists() or not stat.S_ISREG(path.stat().st_mode):
                meaning, todo = "neither a file nor a folder", "remove it from the folder"
                findings.append(Finding.error("special-file", name, meaning, todo))
            elif safe_name(name) is None or "\\" in name:
                findings += check_names([name])
            elif not os.access(path, os.R_OK):
                findings.append(_unread(name))
            else:
                names.append(name)
    return None if findings else Contents(folder, tuple(sorted(names))), findings


def _unread(name: str) -> Finding:
    todo = f"change its permissions: chmod u+r {name}"
    return Finding.error("unread", name, "you may not read this file", todo)
