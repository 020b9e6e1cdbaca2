"""Files by which commands and clients find the server: the ready files and the phase file."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vestal.project import Phase, Project, ReadyFile
from vestal.server.launch import temporary_path


class StateFiles:
    """The ready files and the phase file of a server. Thread-safe."""

    def __init__(self, project: Project, ready_files: Sequence[Path]) -> None:
        self._ready_files, self._phase_file = ready_files, project.phase_file
        self._ready: ReadyFile | None = None
        self._lock = threading.Lock()

    @property
    def files(self) -> list[Path]:
        return [*self._ready_files, self._phase_file]

    @property
    def ready(self) -> ReadyFile | None:
        """Contents of the ready file; None if there is none."""
        return self._ready

    def write_phase(self, phase: str, keeper: str | None = None) -> None:
        """Write that the server is `starting` or `stopping`; `keeper`: base address of its API."""
        content = Phase(phase, os.getpid(), time.time(), keeper)
        _write(self._phase_file, json.dumps(content._asdict()))

    def write_ready(self, ready: ReadyFile) -> None:
        """Write the ready files and remove the phase file."""
        with self._lock:
            self._write(ready)
        _remove(self._phase_file)

    def update(self, served: Sequence[dict[str, Any]], gateway: str | None) -> None:
        """Update the models and the gateway; does nothing while there is no ready file."""
        with self._lock:
            if self._ready is not None:
                known = [each for each in self._ready.models if each in served]
                models = known + [each for each in served if each not in known]
                updated = replace(self._ready, models=models, gateway=gateway)
                if updated != self._ready:
                    self._write(updated)

    def remove_ready(self) -> None:
        """Remove the ready files; a second call does nothing."""
        with self._lock:
            self._ready = None
            _remove(*self._ready_files)

    def remove_phase(self) -> None:
        """Remove the phase file: the server has ended."""
        _remove(self._phase_file)

    def _write(self, ready: ReadyFile) -> None:
        self._ready = ready
        for file in self._ready_files:
            _write(file, ready.to_json())


def _write(file: Path, text: str) -> None:
    temporary_path(file).write_text(text, encoding="utf-8")
    temporary_path(file).replace(file)


def _remove(*files: Path) -> None:
    for file in files:
        for path in (file, temporary_path(file)):  # incomplete if the disk was full
            path.unlink(missing_ok=True)
