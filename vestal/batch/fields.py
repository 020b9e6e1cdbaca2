"""Which columns of a table a model gets, and as what: by the schema that its handler describes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vestal.client.encoding import JSON, TEXT
from vestal.errors import UsageError
from vestal.files.tables import cell_number

_NUMBERS = ("number", "integer")
_TEXT = "text"


@dataclass(frozen=True)
class _Field:
    """A column that is sent. One that is not `needed` is left out of a row where it is empty."""

    schema: Mapping[str, Any]
    needed: bool = True


class Fields:
    """The columns that a model gets of a table; it ignores the others, such as the target.

    Args:
        schema: JSON Schema of an input; empty where the handler describes none: then it gets the
            column `text` alone, or else every column.
        columns: of the table.

    Raises:
        UsageError: the model needs columns that the table does not have.
    """

    def __init__(self, schema: Mapping[str, Any], columns: Sequence[str]) -> None:
        # None: the column `text` alone, as text.
        self._fields = _fields(schema, columns)

    def value(self, row: Mapping[str, Any]) -> str | dict[str, Any]:
        """The input of one row: a text, or an object with numbers where they are expected."""
        if self._fields is None:
            text = row.get(_TEXT)
            return "" if text is None else str(text)
        return {
            name: _value(row[name], field.schema)
            for name, field in self._fields.items()
            if name in row and (field.needed or not _is_empty(row[name]))
        }

    def body(self, row: Mapping[str, Any]) -> tuple[bytes, str]:
        """The input of one row as a body, with its content type."""
        value = self.value(row)
        if isinstance(value, str):
            return value.encode(), TEXT
        return json.dumps(value).encode(), JSON


def _fields(schema: Mapping[str, Any], columns: Sequence[str]) -> dict[str, _Field] | None:
    """The columns that are sent; None: the column `text` alone, as text."""
    if not schema:
        return None if _TEXT in columns else {name: _Field({}) for name in columns}
    kinds = schema.get("anyOf", [schema])
    needed = []
    for kind in kinds:
        needs = kind.get("required") if kind.get("type") == "object" else None
        if needs and set(needs) <= set(columns):
            # What has a type is a parameter of the answer; the others say what to explain.
            known = {n: s for n, s in kind["properties"].items() if n in needs or "type" in s}
            return {n: _Field(known[n], n in needs) for n in columns if n in known}
        needed += [" + ".join(needs)] if needs else []
    if _TEXT in columns and any(kind.get("type") == "string" for kind in kinds):
        return None
    if not needed:
        raise UsageError(
            f"the table has the columns {', '.join(columns)}, but this model takes no input by "
            "column names"
        )
    raise UsageError(
        f"the table has the columns {', '.join(columns)}; this model needs {' or '.join(needed)}"
    )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _value(value: Any, schema: Mapping[str, Any]) -> Any:
    """A number or a boolean where one is expected; else as it is, for the handler to name."""
    if not isinstance(value, str):
        return value
    if schema.get("type") == "boolean":
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    if schema and schema.get("type") not in _NUMBERS:
        return value
    number = cell_number(value)
    return value if number is None else number
