"""The model of a batch run: its handler, the inputs it takes, the actual values it can predict."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from vestal.batch.fields import Fields
from vestal.batch.inputs import InputContent, Inputs, Item
from vestal.files.tables import cell_number
from vestal.inprocess import Input, LoadedArchive
from vestal.mar.manifest import read_manifest, read_settings
from vestal.mar.unpacking import unpack_archive
from vestal.runs import stays_inside


@contextmanager
def load_model(archive: Path) -> Iterator[LoadedArchive]:
    """Load an archive's handler, with all cores of this process.

    Raises:
        VestalError: it does not load.
    """
    with unpack_archive(archive) as folder:
        if not archive.is_dir():
            _set_one_worker(folder)
        # Warming up for every batch size would take longer than a short run.
        with LoadedArchive(folder, batch_size=1) as handler:
            yield handler


def _set_one_worker(folder: Path) -> None:
    """Edit the model's configuration: each of several workers would use a share of the cores."""
    manifest = read_manifest(folder)
    name, settings = manifest.config_file, read_settings(folder, manifest)
    if name and settings and stays_inside(folder, name):
        text = yaml.safe_dump({**settings, "minWorkers": 1, "maxWorkers": 1}, sort_keys=False)
        (folder / name).write_text(text, "utf-8")


def description_of(handler: LoadedArchive) -> dict[str, Any]:
    """Return a Vestal handler's description; empty for other handlers."""
    if not (handler.folder / "vestal_handlers").is_dir():
        return {}
    description = handler.describe()
    return description if isinstance(description, dict) else {}


class ModelInterface:
    """A handler's input format, labels and target, from its description.

    Raises:
        UsageError: the model needs columns that the table does not have.
    """

    def __init__(self, handler: LoadedArchive, inputs: Inputs) -> None:
        self._inputs = inputs
        description = description_of(handler)
        self._labels = set(description.get("labels", ()))
        output = description.get("output", {}).get("properties", {})
        self._target: str | None = output.get("prediction", {}).get("title")
        schema = description.get("input", {})
        self._fields = Fields(schema, inputs.columns) if inputs.columns else None

    def request(self, content: InputContent) -> Input:
        """Build the request for an input."""
        columns = self._inputs.items[content.index].columns
        if columns is None or self._fields is None:
            return Input.raw(content.body, content.content_type)
        return Input.raw(*self._fields.body(columns))

    def is_unlabelled(self, item: Item) -> bool:
        """Whether a classifier's input is a file in a folder that is not one of its labels."""
        return bool(self._labels) and item.row is None and item.folder not in self._labels

    def actual(self, item: Item) -> str | float | None:
        """Return an input's actual value: the folder of a file, or a column; None if unknown.

        The column is `label` for a classifier, and the name of the target for a regressor.
        """
        if item.columns is None:
            return item.folder if item.row is None and item.folder in self._labels else None
        if self._labels:
            label = item.columns.get("label")
            return str(label) if label is not None and str(label) in self._labels else None
        number = cell_number(item.columns.get(self._target or ""))
        return None if number is None else float(number)
