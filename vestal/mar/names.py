"""Names of members: what may be written below a folder, and what may not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from vestal.mar.findings import Findings

_DRIVE = re.compile(r"[A-Za-z]:")


def safe_name(name: str) -> str | None:
    """A member's name below the model's folder ("" for the folder itself); None if it leaves it.

    A backslash counts as a slash: where TorchServe runs on Windows it is one.
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
    """Whether it is what macOS and Windows put beside files; nothing that serves reads it."""
    file = name.rpartition("/")[2]
    return file.startswith("._") or file.lower() in (".ds_store", "thumbs.db", "desktop.ini")


def judge_names(names: Iterable[str], found: Findings, where: str = "") -> None:
    """Names of files (a folder ends in "/") that cannot be written, or not beside one another."""
    files: Counter[str] = Counter()
    folders: set[str] = set()
    for name in names:
        safe = safe_name(name)
        if safe is not None and "\\" in name and not where:
            found.error(
                "backslash-name",
                name,
                "a backslash in a name: on Linux TorchServe writes a file of that whole name into "
                "the root, where an import or a look into its folder does not find it",
                "pack it again with slashes (Windows' own zip tools write backslashes)",
            )
        elif safe is not None:
            if name.endswith("/"):
                folders.add(safe)
            else:
                files[safe] += 1
        elif is_absolute(name):
            found.error(
                "absolute-path",
                where + name,
                "an absolute path: unpacked by some programs, it overwrites a file of the system",
                "do not serve it; pack it again with relative names",
            )
        else:
            found.error(
                "zip-slip",
                where + name,
                "a name that leaves the model's folder, or that no disk can hold: "
                "TorchServe refuses the whole archive, other programs write there",
                "do not serve it; ask who made it",
            )
    for name, times in files.items():
        if times > 1:
            found.error(
                "duplicate-name",
                where + name,
                f"{times} members of this name; TorchServe keeps the last, other programs another",
                "pack it again with one of them",
            )
        if name in folders:
            found.error(
                "duplicate-name", where + name, "a file, and a folder", "pack it again with one"
            )
        for parent in PurePosixPath(name).parents:
            if str(parent) in files:
                found.error(
                    "duplicate-name",
                    where + str(parent),
                    f"a file, and a folder that holds {name}",
                    "pack it again with one of them",
                )
