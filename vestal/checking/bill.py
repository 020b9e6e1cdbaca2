"""`bill-of-materials.json`: what an archive was made of, against what it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vestal.mar.findings import Findings, short
from vestal.mar.index import sha256_of
from vestal.mar.layout import BILL
from vestal.mar.opening import Contents

FORMAT = 1
_TODO = "pack it again with vestal pack"


@dataclass(frozen=True)
class Bill:
    """What the checks use of a bill: packages by distribution name, sha256 by member.

    `packages`: with the optional ones, which an import may name too.
    """

    packages: Mapping[str, str]
    files: Mapping[str, str]
    engine: str | None
    artifact: str | None
    built_on: Mapping[str, str]


def read_bill(contents: Contents, found: Findings) -> Bill | None:
    """The bill; None where there is none, or none to go by."""
    if BILL not in contents:
        found.note(
            "no-bill",
            "",
            "no bill-of-materials.json: what it needs and what was packed cannot be compared",
            "vestal pack writes one; other archives have none, and serve all the same",
        )
        return None
    try:
        given = json.loads(contents.text(BILL))
        if given["format"] != FORMAT:
            raise ValueError(f"format {short(given['format'], 40)}, and this Vestal knows {FORMAT}")
        return Bill(
            packages={**_texts(given, "packages"), **_texts({"optional": {}, **given}, "optional")},
            files=_texts(given, "files"),
            engine=_text(given, "engine"),
            artifact=_text(given, "artifact"),
            built_on=_texts(given, "built_on"),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        found.error("bad-bill", BILL, f"it cannot be read: {what}", _TODO)
        return None


def check_files(contents: Contents, bill: Bill, found: Findings) -> None:
    """Every file must be the one that was packed, and none may have come or gone."""
    held = {name for name in contents.names if name != BILL and not name.startswith("MAR-INF/")}
    for name in sorted(held | bill.files.keys()):
        if name not in held:
            what = "the bill of materials names it, and it is not in the archive"
        elif name not in bill.files:
            what = "the bill of materials does not name it: it came after packing"
        elif (actual := sha256_of(contents.path(name))) != bill.files[name].lower():
            what = f"its sha256 is {actual[:12]}, and {bill.files[name][:12]} was packed"
        else:
            continue
        found.error("bill-mismatch", name, what, _TODO)


def _text(given: Mapping[str, Any], key: str) -> str | None:
    value = given.get(key)
    if not isinstance(value, str | None):
        raise ValueError(f"{key} is {short(value)}, expected a text")
    return value


def _texts(given: Mapping[str, Any], key: str) -> Mapping[str, str]:
    value = given[key]
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{key} must be an object of texts")
    return value
