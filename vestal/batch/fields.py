"""Columns of a table that a model takes, by the JSON Schema in its handler's description."""

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
    """A column that is sent; if it is optional, only in rows where it is not empty."""

    schema: Mapping[str, Any]
    required: bool = True


class Fields:
    """Select and convert the columns of a table that a model takes; others are not sent.

    Args:
        schema: JSON Schema of an input. If it is empty (the handler has no description), the
            column `text` is sent, or every column if there is no `text`.
        columns: all columns of the table.

    Raises:
        UsageError: the model needs columns that the table does not have.
    """

    def __init__(self, schema: Mapping[str, Any], columns: Sequence[str]) -> None:
        # None: the column `text`, as plain text.
        self._fields = _fields(schema, columns)

    def value(self, row: Mapping[str, Any]) -> str | dict[str, Any]:
        """Convert a row to an input: a text, or an object with numbers where they are expected."""
        if self._fields is None:
            text = row.get(_TEXT)
            return "" if text is None else str(text)
        return {
            name: _value(row[name], field.schema)
            for name, field in self._fields.items()
            if name in row and (field.required or not _is_empty(row[name]))
        }

    def body(self, row: Mapping[str, Any]) -> tuple[bytes, str]:
        """Return the request body of a row, and its content type."""
        value = self.value(row)
        if isinstance(value, str):
            return value.encode(), TEXT
        return json.dumps(value).encode(), JSON


def _fields(schema: Mapping[str, Any], columns: Sequence[str]) -> dict[str, _Field] | None:
    """Return the columns to send; None for the column `text`, as plain text."""
    if not schema:
        return None if _TEXT in columns else {name: _Field({}) for name in columns}
    alternatives = schema.get("anyOf", [schema])
    expected = []
    for each in alternatives:
        required = each.get("required") if each.get("type") == "object" else None
        if required and set(required) <= set(columns):
            # Optional properties with a type are parameters; the others are for explanations.
            known = {n: s for n, s in each["properties"].items() if n in required or "type" in s}
            return {n: _Field(known[n], n in required) for n in columns if n in known}
        expected += [" + ".join(required)] if required else []
    if _TEXT in columns and any(each.get("type") == "string" for each in alternatives):
        return None
    if not expected:
        raise UsageError(
            f"the table has the columns {', '.join(columns)}, but this model takes no input by "
            "column names"
        )
    raise UsageError(
        f"the table has the columns {', '.join(columns)}; this model needs {' or '.join(expected)}"
    )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _value(value: Any, schema: Mapping[str, Any]) -> Any:
    """Convert text to the expected number or boolean; the handler refuses other text."""
    if not isinstance(value, str):
        return value
    if schema.get("type") == "boolean":
        return {"true": True, "false": False}.get(value.strip().lower(), value)
    if schema and schema.get("type") not in _NUMBERS:
        return value
    number = cell_number(value)
    return value if number is None else number
