"""Values in serving.yaml with a notation of their own: durations, sizes, fractions."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{letter: 1000**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}i": 1024**power for power, letter in enumerate("kmgt", start=1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", start=1)},
}
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]{1,3}|%)", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")
_ARCHIVE = re.compile(r"[^./\\:\x00-\x1f][^/\\:\x00-\x1f]{0,254}")
_CONTENT_TYPE = re.compile(r"[!-~]+/[ -~]+")
_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_MOST_SECONDS = 10 * 366 * 86400.0
_MOST_WORKERS = 1000


def expected(what: str) -> PydanticCustomError:
    """Return the error of a value; its message is completed with the value."""
    return PydanticCustomError("expected", "expected {what}", {"what": what})


def _pattern(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise expected(what)
        return value

    return check


def _version(value: Any) -> str:
    if isinstance(value, bool | int | float):
        raise expected(
            'a version in quotes, such as "2.0", because other programs read 1.10 as 1.1'
        )
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise expected("a version of letters, digits, `_`, `-` and `.`")
    return value


def _whole(least: int, most: int, what: str = "a whole number") -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise expected(f"{what} from {least} to {most:,}")
        return value

    return check


def _number(value: Any, units: dict[str, float] | None = None) -> float | None:
    """Return a finite number, which may have one of the units; None if it is anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 and math.isfinite(value) else None
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) and units else None
    unit = (units or {}).get(found[2].lower()) if found else None
    return float(found[1]) * unit if found and unit else None


def _duration(value: Any) -> float:
    seconds = _number(value, _SECONDS)
    if seconds is None or not 0 <= seconds <= _MOST_SECONDS:
        raise expected("a duration, such as 30s, 10m, 2h or a number of seconds")
    return seconds


def _time_limit(value: Any) -> float:
    seconds = _number(value, _SECONDS)
    if seconds is None or not 0 < seconds <= _MOST_SECONDS:
        raise expected("a duration above 0, such as 30s, 10m, 2h or a number of seconds")
    return seconds


def _retention(value: Any) -> float | None:
    if value == "forever":
        return None
    seconds = _number(value, _SECONDS)
    if seconds is None or not 0 <= seconds <= _MOST_SECONDS:
        raise expected("a duration, such as 10m, or forever, or 0")
    return seconds


def _fraction(value: Any) -> float:
    fraction = _number(value, {"%": 0.01})
    if fraction is None or not 0 <= fraction <= 1:
        raise expected('a fraction from 0 to 1, or a percentage, such as "0.5%"')
    return fraction


def _percent(value: Any) -> float:
    percent = _number(value, {"%": 1.0})
    if percent is None or not 0 <= percent <= 100:
        raise expected("a percentage from 0 to 100, such as 10")
    return percent


def _address(value: Any) -> str:
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        raise expected("an IP address, such as 127.0.0.1 or 0.0.0.0") from None


def _ratio(value: Any) -> float:
    ratio = _number(value)
    if ratio is None or ratio <= 1:
        raise expected("a number above 1, such as 1.5")
    return ratio


def _size(value: Any) -> int:
    size = _number(value, {unit: float(count) for unit, count in _BYTES.items()})
    if not isinstance(value, str) or size is None or not 2**20 <= size < 2**60:
        raise expected("a size with its unit, such as 2GB or 512MiB, of at least 1 MiB")
    return int(size)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise expected("true or false")
    return value


def _file(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise expected("the path of a file")
    return value


Name = Annotated[
    str, BeforeValidator(_pattern(_NAME, "a name of letters, digits, `_`, `-` and `.`"))
]
Version = Annotated[str, BeforeValidator(_version)]
ArchiveFile = Annotated[
    str, BeforeValidator(_pattern(_ARCHIVE, "a file name in the model store, without a folder"))
]
ContentType = Annotated[
    str, BeforeValidator(_pattern(_CONTENT_TYPE, "a content type, such as image/png"))
]
FieldName = Annotated[
    str, BeforeValidator(_pattern(_FIELD_NAME, "the name of a header or a cookie, such as x-user"))
]
Count = Annotated[int, BeforeValidator(_whole(1, _MOST_WORKERS))]
Port = Annotated[int, BeforeValidator(_whole(0, 65_535, "a port"))]
Limit = Annotated[int, BeforeValidator(_whole(1, 1_000_000))]
Address = Annotated[str, BeforeValidator(_address)]
Percent = Annotated[float, BeforeValidator(_percent)]
Duration = Annotated[float, BeforeValidator(_duration)]
TimeLimit = Annotated[float, BeforeValidator(_time_limit)]
Retention = Annotated[float | None, BeforeValidator(_retention)]
Fraction = Annotated[float, BeforeValidator(_fraction)]
Ratio = Annotated[float, BeforeValidator(_ratio)]
Size = Annotated[int, BeforeValidator(_size)]
Flag = Annotated[bool, BeforeValidator(_flag)]
InputFile = Annotated[str, BeforeValidator(_file)]
