"""Names of an archive's members: `vestal pack` writes them, and everybody else looks for them."""

from __future__ import annotations

from vestal.runs import LABELS as LABELS

MANIFEST = "MAR-INF/MANIFEST.json"
HANDLER = "handler.py"
CONFIG = "model-config.yaml"
BILL = "bill-of-materials.json"
