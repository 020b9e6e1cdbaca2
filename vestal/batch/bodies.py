"""How a row of a table is asked of a model: by what its handler says it takes."""

from __future__ import annotations

from typing import Any

from vestal.batch.fields import Fields
from vestal.batch.inputs import Item, Items, Read
from vestal.files.tables import cell_number
from vestal.inprocess import Input, LoadedArchive


class Asking:
    """What a model takes and what it knows: labels, and the name of what it predicts.

    Raises:
        UsageError: the model needs columns that the table has not.
    """

    def __init__(self, handler: LoadedArchive, items: Items) -> None:
        self.items = items
        said = described(handler)
        self.labels = set(said.get("labels", ()))
        output = said.get("output", {}).get("properties", {})
        self.target: str | None = output.get("prediction", {}).get("title")
        self._fields = Fields(said.get("input", {}), items.columns) if items.columns else None

    def input(self, read: Read) -> Input:
        """One request."""
        columns = self.items.items[read.index].columns
        if columns is None or self._fields is None:
            return Input.raw(read.body, read.content_type)
        return Input.raw(*self._fields.body(columns))

    def is_unlabelled(self, item: Item) -> bool:
        """Whether it is a file for a classifier in a folder that is none of its labels."""
        return bool(self.labels) and item.row is None and item.folder not in self.labels

    def actual(self, item: Item) -> str | float | None:
        """The truth about an input, where it is known: a folder's name, or a column.

        A column is called `label`, or as what a regressor predicts.
        """
        if item.columns is None:
            return item.folder if item.row is None and item.folder in self.labels else None
        if self.labels:
            label = item.columns.get("label")
            return str(label) if label is not None and str(label) in self.labels else None
        number = cell_number(item.columns.get(self.target or ""))
        return None if number is None else float(number)


def described(handler: LoadedArchive) -> dict[str, Any]:
    """What a handler of Vestal says of itself; nothing of another one."""
    if not (handler.folder / "vestal_handlers").is_dir():
        return {}
    said = handler.describe()
    return said if isinstance(said, dict) else {}
