"""The files by which clients and commands find a server, kept up to date."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vestal.errors import UsageError, VestalError
from vestal.fleet.desired import Desired
from vestal.fleet.keeper_token import remove_token, token_file, write_token
from vestal.fleet.observing import Observed
from vestal.project import Project, ReadyFile
from vestal.server.state_files import StateFiles


class Publication:
    """The ready files, the phase file and the keeper's token.

    `ready_file`: written in addition to the project's own, by which commands find the server.
    """

    def __init__(self, project: Project, ready_file: Path | None) -> None:
        self._project = project
        self._own = ready_file.absolute() if ready_file else None
        ready_files = [project.ready_file, *([self._own] if self._own else [])]
        self._files = StateFiles(project, ready_files)
        self._token = ""
        self._ready: ReadyFile | None = None
        self._order: dict[tuple[str, str], int] = {}
        self.keeper: str | None = None
        """Base address of the keeper's API."""

    @property
    def files(self) -> list[Path]:
        """All files, to be removed at the end."""
        return [*self._files.files, token_file(self._project)]

    @property
    def ready(self) -> ReadyFile | None:
        """Contents of the ready file; None if there is none."""
        return self._files.ready

    def check(self) -> None:
        """Refuse an existing file that is not a ready file: ready files are removed."""
        file = self._own
        if file is None:
            return
        try:
            ReadyFile.read(file)
        except FileNotFoundError:
            if not file.parent.is_dir():
                raise UsageError(f"--ready-file {file}: there is no folder {file.parent}") from None
        except (VestalError, OSError):
            raise UsageError(
                f"--ready-file {file} exists and is not a ready file. Choose another path"
            ) from None

    def remove_stale(self) -> None:
        """Remove files that were left when the machine lost power."""
        for stale in (*self.files, self._project.key_file):
            stale.unlink(missing_ok=True)

    def write_token(self) -> str:
        """Write a new token, and return it."""
        self._token = write_token(self._project)
        return self._token

    def write_phase(self, phase: str) -> None:
        self._files.write_phase(phase, self.keeper)

    def write_ready(
        self, ready: ReadyFile, desired: Desired, observed: Mapping[str, Observed]
    ) -> None:
        """Write that the server is ready; its models are listed in the desired order."""
        keys = [(name, version) for name, m in desired.models.items() for version in m.versions]
        self._order = {key: place for place, key in enumerate(keys)}
        self._ready = replace(ready, models=self._list_served(observed))
        self._files.write_ready(self._ready)

    def write_again(self) -> None:
        """Write the files that the guardian of a TorchServe that has ended has removed."""
        with contextlib.suppress(OSError):  # with a full disk, the models are served nevertheless
            self.write_phase("starting")
            write_token(self._project, self._token)

    def update(self, observed: Mapping[str, Observed], gateway: str | None, *, ready: bool) -> None:
        """Update the models and the gateway's address; after a restart, as soon as it is ready."""
        if self._ready is None:
            return
        served = self._list_served(observed)
        if self._project.ready_file.exists():
            self._files.update(served, gateway)
        elif ready:
            self._files.write_ready(replace(self._ready, models=served, gateway=gateway))

    def _list_served(self, observed: Mapping[str, Observed]) -> list[dict[str, Any]]:
        """List the served versions, as the ready file does; those of other clients come last."""
        served = [
            {"name": name, "version": version, "default": version == model.default}
            for name, model in observed.items()
            for version in model.versions
        ]
        last = len(self._order)
        return sorted(
            served, key=lambda each: self._order.get((each["name"], each["version"]), last)
        )

    def remove_ready(self) -> None:
        """Remove the ready files; a second call does nothing."""
        self._ready = None
        self._files.remove_ready()

    def remove(self) -> None:
        """Remove all files: the server has ended."""
        self.remove_ready()
        self._files.remove_phase()
        remove_token(self._project)
