"""`bill-of-materials.json`: what an archive was packed from, compared with its content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vestal.mar.findings import Check, Finding, short_repr
from vestal.mar.index import sha256_of
from vestal.mar.layout import BILL
from vestal.mar.opening import Contents

FORMAT = 1
_REPACK = "pack it again with vestal pack"


@dataclass(frozen=True)
class Bill:
    """The parts of a bill that are checked; `files`: sha256 by member."""

    files: Mapping[str, str]
    engine: str | None
    artifact: str | None
    built_on: Mapping[str, str]
    optimization: Mapping[str, Any] | None = None


def read_bill(contents: Contents) -> Check[Bill | None]:
    """Read the bill; None if there is none, or it cannot be read."""
    if BILL not in contents:
        yield Finding.note(
            "no-bill",
            "",
            "it has no bill-of-materials.json, so its content cannot be compared with what was "
            "packed",
            "nothing: only vestal pack writes one, and the archive can be served without it",
        )
        return None
    try:
        bill = json.loads(contents.text(BILL))
        if bill["format"] != FORMAT:
            raise ValueError(f"its format is {short_repr(bill['format'], 40)}, expected {FORMAT}")
        return Bill(
            files=_strings(bill, "files"),
            engine=_string(bill, "engine"),
            artifact=_string(bill, "artifact"),
            built_on=_strings(bill, "built_on"),
            optimization=_optimization(bill),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        yield Finding.error("bad-bill", BILL, f"it cannot be read: {reason}", _REPACK)
        return None


def check_files(contents: Contents, bill: Bill) -> Check[None]:
    """Compare every file with the one that was packed."""
    names = {name for name in contents.names if name != BILL and not name.startswith("MAR-INF/")}
    for name in sorted(names | bill.files.keys()):
        if name not in names:
            meaning = "the bill of materials lists it, but it is not in the archive"
        elif name not in bill.files:
            meaning = "the bill of materials does not list it: it was added after packing"
        elif (actual := sha256_of(contents.path(name))) != bill.files[name].lower():
            meaning = f"its sha256 is {actual[:12]}, but {bill.files[name][:12]} was packed"
        else:
            continue
        yield Finding.error("bill-mismatch", name, meaning, _REPACK)


def check_optimization(bill: Bill) -> Check[None]:
    """Note what the optimized weights of an archive lost against those in fp32, when packed."""
    found = bill.optimization
    if found is None:
        return
    if found["metric"] == "agreement":
        change = f"{100 * found['agreement']:.2f} % of the predictions agree with fp32"
    else:
        change = f"{found['metric']} {found['before']:.4g} in fp32, {found['after']:.4g} in this"
    yield Finding.note(
        "optimized",
        "",
        f"{change}, measured on {found['inputs']} inputs of {short_repr(found['data'])}",
        "nothing, if the model receives such inputs; vestal evaluate measures it on others",
    )


def _optimization(bill: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = bill.get("optimization")
    if found is None:
        return None
    numbers = {"before", "after", "agreement", "inputs"}
    if (
        not isinstance(found, dict)
        or not all(isinstance(found.get(key), int | float) for key in numbers)
        or not all(isinstance(found.get(key), str) for key in ("metric", "data"))
    ):
        raise ValueError(f"optimization is {short_repr(found)}, expected a measurement")
    return found


def _string(bill: Mapping[str, Any], key: str) -> str | None:
    value = bill.get(key)
    if not isinstance(value, str | None):
        raise ValueError(f"{key} is {short_repr(value)}, expected a string")
    return value


def _strings(bill: Mapping[str, Any], key: str) -> Mapping[str, str]:
    value = bill[key]
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{key} must be an object of strings")
    return value
