"""The largest number of workers of each version, for the workers themselves.

A worker takes its share of the cores, and TorchServe does not tell it how many workers there are.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

from vestal.server.launch import temporary_path


class WorkerCounts:
    """A JSON file with numbers by model and version, which `vestal_handlers.threads` reads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._counts: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def set(self, model: str, counts: Mapping[str, int]) -> None:
        """Replace the numbers of a model, by version.

        Raises:
            OSError: the file cannot be written.
        """
        with self._lock:
            self._counts[model] = dict(counts)
            new = temporary_path(self._file)
            new.write_text(json.dumps(self._counts), "utf-8")
            new.replace(self._file)
