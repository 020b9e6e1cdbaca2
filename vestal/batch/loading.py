"""Load an archive's handler for a process that has the machine to itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from vestal.inprocess import LoadedArchive
from vestal.mar.manifest import read_manifest, read_settings
from vestal.mar.unpacking import unpack_archive
from vestal.runs import stays_inside


@contextmanager
def loaded(archive: Path) -> Iterator[LoadedArchive]:
    """The archive's handler with every core of this process for one worker, which it is.

    Raises:
        VestalError: it does not load.
    """
    with unpack_archive(archive) as folder:
        if not archive.is_dir():
            _alone(folder)
        # Warm for one: every size of batch would take longer to warm up than to run.
        with LoadedArchive(folder, batch_size=1) as handler:
            yield handler


def _alone(folder: Path) -> None:
    """As a server's worker it would take its share of the cores only."""
    manifest = read_manifest(folder)
    name, settings = manifest.config_file, read_settings(folder, manifest)
    if name and settings and stays_inside(folder, name):
        text = yaml.safe_dump({**settings, "minWorkers": 1, "maxWorkers": 1}, sort_keys=False)
        (folder / name).write_text(text, "utf-8")
