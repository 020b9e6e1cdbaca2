"""One input that travels in an archive, with the answer it should get: `sample/sample.json`.

    {"input": "input.png", "content_type": "image/png", "answer": {...}, "tolerance": 1e-4}

`input` is a file beside it. A server is ready when its worker answers the sample as packed.
"""

from __future__ import annotations

import base64
import io
import json
import math
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.errors import UsageError, VestalError

FOLDER = "sample"
DESCRIPTION = "sample.json"
TOLERANCE = 1e-4
# Of a precision's 24, 11 and 8 bits of mantissa much is lost on the way through a network.
TOLERANCES = {"fp32": TOLERANCE, "fp16": 1e-2, "bf16": 5e-2}
TORCH = {"eager", "torchscript", "exported", "transformers"}  # engines that compute in torch
OTHER_KERNELS = 1e-3  # of another engine, which adds up in another order
# What Python's reader makes of a damaged zip.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error)
DIGITS = 6  # significant ones, of a number in an answer: the rest is the machine's noise


@dataclass(frozen=True)
class Sample:
    """`input`: the body of the request; `name`: its file name; `answer`: what JSON gives."""

    input: bytes
    content_type: str
    name: str
    answer: Any
    tolerance: float = TOLERANCE

    def write(self, folder: Path) -> None:
        """Writes `sample/` into the folder of an archive that is being made."""
        place = folder / FOLDER
        place.mkdir(exist_ok=True)
        (place / self.name).write_bytes(self.input)
        description = {
            "input": self.name,
            "content_type": self.content_type,
            "answer": self.answer,
            "tolerance": self.tolerance,
        }
        (place / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", "utf-8")


def read_sample(archive: Path) -> Sample | None:
    """The sample of an archive or of its unpacked folder; None where it has none.

    Raises VestalError where the archive or its sample cannot be read.
    """
    try:
        if archive.is_dir():
            return _read(archive / FOLDER)
        with zipfile.ZipFile(archive) as content:
            return _read(zipfile.Path(content) / FOLDER)
    except (OSError, KeyError, TypeError, OverflowError, *_BROKEN) as error:
        raise VestalError(
            f"{FOLDER}/{DESCRIPTION} in {archive} cannot be read ({error}): pack the archive again"
        ) from None


def _read(place: Path | zipfile.Path) -> Sample | None:
    if not (place / DESCRIPTION).is_file():
        return None
    description = json.loads((place / DESCRIPTION).read_text("utf-8"))
    if "/" in description["input"] or description["input"] == "..":
        raise ValueError(f"its input {description['input']!r:.80} is no file beside it")
    return _made(description, (place / description["input"]).read_bytes())


def parse_sample(text: str) -> Sample:
    """A sample as a Vestal handler sends it: `sample.json` with its input's bytes in base64.

    Raises KeyError, TypeError, ValueError or OverflowError for anything else.
    """
    description = json.loads(text)
    return _made(description, base64.b64decode(description["base64"], validate=True))


def _made(description: Any, body: bytes) -> Sample:
    return Sample(
        input=body,
        content_type=description["content_type"],
        name=description["input"],
        answer=description["answer"],
        tolerance=float(description.get("tolerance", TOLERANCE)),
    )


def tolerance_of(precision: str, engine: str) -> float:
    """How far an engine's answer in a precision may be from that of torch in fp32.

    Raises UsageError for a precision that there is none of.
    """
    if precision not in TOLERANCES:
        raise UsageError(f"no precision {precision!r}: the precisions are {', '.join(TOLERANCES)}")
    return TOLERANCES[precision] if engine in TORCH else max(TOLERANCES[precision], OTHER_KERNELS)


def value_of(body: bytes, content_type: str) -> Any:
    """An answer's value: what its JSON says, or its bytes as `{"b64", "content_type"}`."""
    try:
        return json.loads(body)
    except ValueError:
        return {"b64": base64.b64encode(body).decode(), "content_type": content_type}


def rounded(answer: Any) -> Any:
    """A JSON value with six significant digits of its numbers, the same on every machine."""
    if isinstance(answer, Mapping):
        return {key: rounded(value) for key, value in answer.items()}
    if _is_list(answer):
        return [rounded(value) for value in answer]
    return float(f"{answer:.{DIGITS}g}") if isinstance(answer, float) else answer


def matches(expected: Any, actual: Any, tolerance: float = TOLERANCE) -> str | None:
    """The first difference between two JSON values as a sentence; None where they agree.

    Numbers may differ by `tolerance`, times the expected one where that is larger than 1;
    everything else must be equal.
    """
    return _difference(expected, actual, tolerance, "answer")


def _difference(expected: Any, actual: Any, tolerance: float, place: str) -> str | None:
    if _is_media(expected) and _is_media(actual):
        return _media_difference(expected, actual, tolerance, place)
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        for key in expected:
            if key not in actual:
                return f"{place} has no {key!r}"
        for key in actual:
            if key not in expected:
                return f"{place} has {key!r}, which was not expected"
        pairs = [(expected[key], actual[key], f"{place}.{key}") for key in expected]
    elif _is_list(expected) and _is_list(actual):
        left_by, right_by = by_label(expected), by_label(actual)
        if left_by is not None and right_by is not None:
            # Of two that are nearly equal either may come first.
            named = (left_by, right_by)
            return _difference(*named, tolerance, place)
        if len(expected) != len(actual):
            return f"{place} has {len(actual)} items, expected {len(expected)}"
        pairs = [
            (left, right, f"{place}[{index}]")
            for index, (left, right) in enumerate(zip(expected, actual, strict=True))
        ]
    elif _is_number(expected) and _is_number(actual):
        distance = distance_of(expected, actual)
        # Infinitely far: a NaN, or what no float holds.
        if math.isinf(distance) or (distance and distance > tolerance * max(1.0, abs(expected))):
            return f"{place} is {actual}, expected {expected} (tolerance {tolerance:g})"
        return None
    elif type(expected) is not type(actual) or expected != actual:
        return f"{place} is {_short(actual)}, expected {_short(expected)}"
    else:
        return None
    for left, right, inner in pairs:
        difference = _difference(left, right, tolerance, inner)
        if difference is not None:
            return difference
    return None


def _is_media(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"b64", "content_type"}


def _media_difference(
    expected: Mapping[str, str], actual: Mapping[str, str], tolerance: float, place: str
) -> str | None:
    """Images are compared by their pixels, everything else byte by byte."""
    kinds = actual["content_type"], expected["content_type"]
    if kinds[0] != kinds[1]:
        return f"{place} is {kinds[0]}, expected {kinds[1]}"
    if actual["b64"] == expected["b64"]:
        return None
    if kinds[0].startswith("image/"):
        distance = _pixel_distance(expected["b64"], actual["b64"])
        # Numbers that differ in their last digits may be rounded to the next of 256 levels.
        if distance <= max(tolerance, 1 / 255):
            return None
    return f"{place} is another {kinds[0] or 'body'} than expected"


def _pixel_distance(expected: str, actual: str) -> float:
    """The mean difference of two images' values, which are 0 to 1; infinite for other sizes."""
    try:
        from PIL import Image, ImageChops, ImageStat, UnidentifiedImageError
    except ImportError:
        return math.inf
    try:
        left, right = (Image.open(io.BytesIO(base64.b64decode(b))) for b in (expected, actual))
        if (left.size, left.mode) != (right.size, right.mode):
            return math.inf
        difference = ImageChops.difference(left.convert("RGBA"), right.convert("RGBA"))
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        return math.inf
    return max(ImageStat.Stat(difference).mean) / 255


def by_label(values: Sequence[Any]) -> dict[str, Any] | None:
    """What a classifier says of each label (`top`), by label; None where it is no such list.

    Classes that share a label are told apart by their index. Answers to several instances are
    none: they have a `top` of their own, and their order counts.
    """
    if not all(isinstance(v, Mapping) and "label" in v and "top" not in v for v in values):
        return None
    count = Counter(str(value["label"]) for value in values)
    found = {
        label if count[label] == 1 else f"{label} ({value.get('index')})": value
        for label, value in ((str(value["label"]), value) for value in values)
    }
    return found if values and len(found) == len(values) else None


def distance_of(left: float, right: float) -> float:
    """How far two numbers are from each other; infinitely, where no float can say it."""
    if left == right:
        return 0.0
    try:
        distance = abs(float(left) - float(right))
    except OverflowError:  # JSON's integers have no end
        return math.inf
    return distance if math.isfinite(distance) else math.inf


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
