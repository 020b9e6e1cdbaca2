"""Parse numbers in forms and tables: those of JSON, and a few more notations."""

from __future__ import annotations

import math
import re

# No underscores, only the digits 0 to 9, no NaN, no infinity. Matching takes linear time.
_NUMERAL = re.compile(r"\s*([+-]?)(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


def number_in(text: str) -> int | float | None:
    """Return the finite number in a text; None if it is not one."""
    match = _NUMERAL.fullmatch(text)
    if match is None:
        return None
    number = float(text)
    if not math.isfinite(number):
        return None
    sign, digits, fraction, exponent = match.groups()
    if fraction is not None or exponent is not None or digits.startswith("."):
        return number
    return int(sign + (digits.lstrip("0") or "0"))  # int() refuses thousands of zeros
