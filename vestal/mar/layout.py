"""Names of an archive's members, and how to read one of them."""

from __future__ import annotations

import zipfile
from pathlib import Path

from vestal.runs import LABELS as LABELS

MANIFEST = "MAR-INF/MANIFEST.json"
HANDLER = "handler.py"
CONFIG = "model-config.yaml"
BILL = "bill-of-materials.json"


def served_folder(folder: Path) -> Path:
    """The folder, or its only subfolder: TorchServe also unwraps one level."""
    inner = list(folder.iterdir())
    deeper = len(inner) == 1 and inner[0].is_dir() and inner[0].name != "MAR-INF"
    return inner[0] if deeper else folder


def read_member(archive: Path, name: str) -> bytes | None:
    """A member of a .mar or of its unpacked folder; None if it is missing.

    Raises:
        OSError, or one of `zips.BROKEN`: the archive cannot be read.
    """
    if archive.is_dir():
        file = served_folder(archive) / name
        return file.read_bytes() if file.is_file() else None
    with zipfile.ZipFile(archive) as content:
        return content.read(name) if name in content.namelist() else None
