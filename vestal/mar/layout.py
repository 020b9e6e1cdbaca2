"""Names of an archive's members: `vestal pack` writes them, and everybody else looks for them."""

from __future__ import annotations

from pathlib import Path

from vestal.runs import LABELS as LABELS

MANIFEST = "MAR-INF/MANIFEST.json"
HANDLER = "handler.py"
CONFIG = "model-config.yaml"
BILL = "bill-of-materials.json"


def served_folder(folder: Path) -> Path:
    """The folder itself, or the one that it holds: TorchServe, too, goes one down."""
    inner = list(folder.iterdir())
    deeper = len(inner) == 1 and inner[0].is_dir() and inner[0].name != "MAR-INF"
    return inner[0] if deeper else folder
