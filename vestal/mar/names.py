"""Names of members: which ones may be written into a folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from vestal.mar.findings import Finding

_DRIVE = re.compile(r"[A-Za-z]:")


def safe_name(name: str) -> str | None:
    """A member's path in the model's folder ("" for the folder itself); None if it leaves it.

    A backslash counts as a slash, which it is on Windows.
    """
    plain = name.replace("\\", "/")
    if is_absolute(name) or "\0" in name or len(name.encode("utf-8", "replace")) > 4000:
        return None
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if ".." in parts or any(len(part.encode("utf-8", "replace")) > 255 for part in parts):
        return None
    return "/".join(parts)


def is_absolute(name: str) -> bool:
    plain = name.replace("\\", "/")
    return plain.startswith("/") or _DRIVE.match(plain) is not None


def is_junk(name: str) -> bool:
    """Whether macOS or Windows added the file; no handler reads it."""
    file = name.rpartition("/")[2]
    return file.startswith("._") or file.lower() in (".ds_store", "thumbs.db", "desktop.ini")


def check_names(names: Iterable[str], prefix: str = "") -> Iterator[Finding]:
    """Find member names (a folder ends in "/") that are unsafe or in conflict.

    Args:
        prefix: prefix of names in findings, for a zip inside the archive, which is not unpacked.
    """
    files: Counter[str] = Counter()
    folders: set[str] = set()
    for name in names:
        safe = safe_name(name)
        if safe is not None and "\\" in name and not prefix:
            yield Finding.error(
                "backslash-name",
                name,
                "the name contains a backslash: on Linux, TorchServe writes a file with that whole "
                "name into the root, so that imports and the handler do not find it in its folder",
                "pack the archive again with slashes (zip tools of Windows write backslashes)",
            )
        elif safe is not None and name.endswith("/"):
            folders.add(safe)
        elif safe is not None:
            files[safe] += 1
        elif is_absolute(name):
            yield Finding.error(
                "absolute-path",
                prefix + name,
                "an absolute path: some programs overwrite a system file when they unpack it",
                "do not serve this archive; pack it again with relative names",
            )
        else:
            yield Finding.error(
                "zip-slip",
                prefix + name,
                "the name leads out of the model's folder or is not a valid file name: TorchServe "
                "rejects the whole archive, other programs write outside the folder",
                "do not serve this archive; ask its author",
            )
    for name, count in files.items():
        if count > 1:
            meaning = f"{count} members have this name; TorchServe keeps the last one, other "
            yield _duplicate(prefix + name, f"{meaning}programs another one")
        if name in folders:
            yield _duplicate(prefix + name, "the name of a file and of a folder")
        for parent in map(str, PurePosixPath(name).parents):
            if parent in files:
                yield _duplicate(prefix + parent, f"a file, and a folder that contains {name}")


def _duplicate(where: str, meaning: str) -> Finding:
    return Finding.error("duplicate-name", where, meaning, "pack the archive with only one of them")
