"""The files by which commands and clients find the server: what it serves, and its phase."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import requests

from vestal.project import Phase, Project, ReadyFile
from vestal.server.api import Api
from vestal.server.launch import partial

_REFRESH_SECONDS = 1.0
_CALL_SECONDS = 5.0


class Publishing:
    """The ready files and the phase file of one server; safe to use from several threads."""

    def __init__(self, project: Project, ready_files: Sequence[Path]) -> None:
        self._ready_files, self._phase_file = ready_files, project.phase_file
        self._ready: ReadyFile | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._follower: threading.Thread | None = None

    @property
    def files(self) -> list[Path]:
        return [*self._ready_files, self._phase_file]

    @property
    def ready(self) -> ReadyFile | None:
        """What the ready file contains; None while there is none."""
        return self._ready

    def phase(self, phase: str) -> None:
        """Tells that the server is `starting` or `stopping`, from now on."""
        _write(self._phase_file, json.dumps(Phase(phase, os.getpid(), time.time())._asdict()))

    def publish(self, ready: ReadyFile) -> None:
        """Writes the ready files."""
        with self._lock:
            self._write(ready)
        _remove(self._phase_file)

    def follow(self, api: Api) -> None:
        """Keeps the list of models up to date, in a thread of its own, until `withdraw`."""
        self._follower = threading.Thread(target=self._follow, args=(api,), daemon=True)
        self._follower.start()

    def withdraw(self) -> None:
        """The server is not ready any more; once is enough."""
        with self._lock:
            self._ended.set()
            self._ready = None
            _remove(*self._ready_files)

    def end(self) -> None:
        """The server is gone, or is not going to start."""
        _remove(self._phase_file)

    def _follow(self, api: Api) -> None:
        while not self._ended.wait(_REFRESH_SECONDS):
            # A server that is busy, or ends, tells it the next time, or never.
            with contextlib.suppress(requests.RequestException, OSError, ValueError, KeyError):
                served = api.served(_CALL_SECONDS)
                with self._lock:
                    if self._ready is None:
                        return
                    known = [each for each in self._ready.models if each in served]
                    models = known + [each for each in served if each not in known]
                    if models != self._ready.models:
                        self._write(replace(self._ready, models=models))

    def _write(self, ready: ReadyFile) -> None:
        self._ready = ready
        for file in self._ready_files:
            _write(file, ready.to_json())


def _write(file: Path, text: str) -> None:
    partial(file).write_text(text, encoding="utf-8")
    partial(file).replace(file)


def _remove(*files: Path) -> None:
    for file in files:
        for each in (file, partial(file)):  # a full disk leaves a part of one
            each.unlink(missing_ok=True)
