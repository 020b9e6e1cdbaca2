"""How a row of a table is asked of a model: by what its handler says it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vestal.archive.run import Input, LoadedArchive
from vestal.batch.inputs import Item, Items, Read, number_in
from vestal.client.encoding import JSON, TEXT
from vestal.errors import UsageError

_NUMBERS = ("number", "integer")


@dataclass(frozen=True)
class _Field:
    """A column that is sent. One that is not `needed` is left out of a row where it is empty."""

    schema: Mapping[str, Any]
    needed: bool = True


class Asking:
    """What a model takes and what it knows: labels, and the name of what it predicts.

    Raises:
        UsageError: the model needs columns that the table has not.
    """

    def __init__(self, handler: LoadedArchive, items: Items) -> None:
        self.items = items
        said = _described(handler)
        self.labels = set(said.get("labels", ()))
        output = said.get("output", {}).get("properties", {})
        self.target: str | None = output.get("prediction", {}).get("title")
        # By column; None: the column `text` alone is sent, as text.
        self.fields: Mapping[str, _Field] | None = None
        if items.columns:
            self.fields = _fields(said.get("input", {}), items.columns)

    def input(self, read: Read) -> Input:
        """One request."""
        columns = self.items.items[read.index].columns
        if columns is None:
            return Input.raw(read.body, read.content_type)
        if self.fields is None:
            return Input.raw(columns["text"].encode(), TEXT)
        row = {
            name: _value(columns[name], field.schema)
            for name, field in self.fields.items()
            if field.needed or columns[name].strip()
        }
        return Input.raw(json.dumps(row).encode(), JSON)

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
            return label if label in self.labels else None
        number = number_in(item.columns.get(self.target or "", ""))
        return None if number is None else float(number)


def _described(handler: LoadedArchive) -> dict[str, Any]:
    """What a handler of Vestal says of itself; nothing of another one."""
    if not (handler.folder / "vestal_handlers").is_dir():
        return {}
    said = handler.describe()
    return said if isinstance(said, dict) else {}


def _fields(schema: Mapping[str, Any], columns: Sequence[str]) -> dict[str, _Field] | None:
    """The columns that are sent; None: the column `text` alone, as text."""
    if not schema:
        return {name: _Field({}) for name in columns}
    wanted = []
    for kind in schema.get("anyOf", [schema]):
        needs = kind.get("required") if kind.get("type") == "object" else None
        if needs and set(needs) <= set(columns):
            # What has a type is a parameter of the answer; the others say what to explain.
            known = {n: s for n, s in kind["properties"].items() if n in needs or "type" in s}
            return {n: _Field(known[n], n in needs) for n in columns if n in known}
        wanted += [" + ".join(needs)] if needs else []
    if "text" in columns and any(kind.get("type") == "string" for kind in schema.get("anyOf", [])):
        return None
    needed = f"needs {' or '.join(wanted)}" if wanted else "takes no table; pass it files"
    raise UsageError(f"the table has the columns {', '.join(columns)}; this model {needed}")


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    """A number or truth where one is wanted; else it goes as it is, for the handler to name."""
    if schema.get("type") == "boolean":
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if schema and schema.get("type") not in _NUMBERS:
        return text
    number = number_in(text)
    return text if number is None else number
