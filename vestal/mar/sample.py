"""The sample of an archive: one input, with the expected prediction, in `sample/sample.json`.

    {"input": "input.png", "content_type": "image/png", "answer": {...}, "tolerance": 1e-4}

`input` is a file in the same folder. A server is ready once it predicts the sample as packed.
"""

from __future__ import annotations

import base64
import io
import json
import math
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vestal.errors import UsageError, VestalError
from vestal.mar.zips import BROKEN

FOLDER = "sample"
DESCRIPTION = "sample.json"
TOLERANCE = 1e-4
# The precisions have 24, 11 and 8 bits of mantissa, and rounding errors grow in a network.
# int8 is compared with its own prediction, which other CPUs compute with other instructions.
TOLERANCES = {"fp32": TOLERANCE, "fp16": 1e-2, "bf16": 5e-2, "int8": 5e-2}
TORCH = {"eager", "torchscript", "exported", "transformers"}  # engines with torch's kernels
OTHER_KERNELS = 1e-3  # tolerance for other engines, which sum in another order
DIGITS = 6  # significant digits of a prediction; further digits depend on the machine


@dataclass(frozen=True)
class Sample:
    """An input and its expected prediction.

    Attributes:
        input: the body of the request.
        name: the file name of the input.
        answer: the expected prediction, a JSON value.
    """

    input: bytes
    content_type: str
    name: str
    answer: Any
    tolerance: float = TOLERANCE

    expected: ClassVar[str] = "when it was packed"
    """Where the expected prediction comes from, for messages."""

    def difference(self, answer: Any) -> str | None:
        """Describe how a prediction differs from the expected one; None if it agrees."""
        return find_difference(self.answer, answer, self.tolerance)

    def write(self, folder: Path) -> None:
        """Write `sample/` into the folder of an archive."""
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
    """The sample of a .mar or of its unpacked folder; None if it has none.

    Raises:
        VestalError: the archive or its sample cannot be read.
    """
    try:
        if archive.is_dir():
            return _read(archive / FOLDER)
        with zipfile.ZipFile(archive) as content:
            return _read(zipfile.Path(content) / FOLDER)
    except (OSError, KeyError, TypeError, OverflowError, *BROKEN) as error:
        raise VestalError(
            f"{FOLDER}/{DESCRIPTION} in {archive} cannot be read ({error}). Pack the archive again"
        ) from None


def _read(place: Path | zipfile.Path) -> Sample | None:
    if not (place / DESCRIPTION).is_file():
        return None
    description = json.loads((place / DESCRIPTION).read_text("utf-8"))
    if "/" in description["input"] or description["input"] == "..":
        raise ValueError(f"its input {description['input']!r:.80} is not a file in its folder")
    return _sample(description, (place / description["input"]).read_bytes())


def parse_sample(text: str) -> Sample:
    """A sample in the format in which handlers send it: `sample.json` with its input in base64.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: the text has another format.
    """
    description = json.loads(text)
    return _sample(description, base64.b64decode(description["base64"], validate=True))


def _sample(description: Any, body: bytes) -> Sample:
    return Sample(
        input=body,
        content_type=description["content_type"],
        name=description["input"],
        answer=description["answer"],
        tolerance=float(description.get("tolerance", TOLERANCE)),
    )


def tolerance_of(precision: str, engine: str) -> float:
    """The largest accepted difference of an engine's predictions from those of torch in fp32.

    Raises:
        UsageError: unknown precision.
    """
    if precision not in TOLERANCES:
        raise UsageError(f"unknown precision {precision!r}: pass one of {', '.join(TOLERANCES)}")
    return TOLERANCES[precision] if engine in TORCH else max(TOLERANCES[precision], OTHER_KERNELS)


def value_of(body: bytes, content_type: str) -> Any:
    """The JSON value of a response's body; other bytes become `{"b64", "content_type"}`."""
    try:
        return json.loads(body)
    except ValueError:
        return {"b64": base64.b64encode(body).decode(), "content_type": content_type}


def round_numbers(answer: Any) -> Any:
    """A JSON value with its numbers rounded to DIGITS significant digits."""
    if isinstance(answer, Mapping):
        return {key: round_numbers(value) for key, value in answer.items()}
    if _is_list(answer):
        return [round_numbers(value) for value in answer]
    return float(f"{answer:.{DIGITS}g}") if isinstance(answer, float) else answer


def find_difference(expected: Any, actual: Any, tolerance: float = TOLERANCE) -> str | None:
    """Describe the first difference between two JSON values; None if they agree.

    Numbers may differ by `tolerance`, multiplied by the expected number if that is larger than 1;
    all other values must be equal.
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
        expected_by_label, actual_by_label = by_label(expected), by_label(actual)
        if expected_by_label is not None and actual_by_label is not None:
            # Two nearly equal probabilities may be in either order.
            return _difference(expected_by_label, actual_by_label, tolerance, place)
        if len(expected) != len(actual):
            return f"{place} has {len(actual)} items, expected {len(expected)}"
        pairs = [
            (left, right, f"{place}[{index}]")
            for index, (left, right) in enumerate(zip(expected, actual, strict=True))
        ]
    elif _is_number(expected) and _is_number(actual):
        distance = distance_of(expected, actual)
        # The distance is infinite for a NaN, and for integers that do not fit a float.
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
    """Compare images by their pixels and other media byte by byte."""
    kind = actual["content_type"]
    if kind != expected["content_type"]:
        return f"{place} is {kind}, expected {expected['content_type']}"
    if actual["b64"] == expected["b64"]:
        return None
    if kind.startswith("image/"):
        distance = _pixel_distance(expected["b64"], actual["b64"])
        # A difference in the last digits may round to the next of 256 levels.
        if distance <= max(tolerance, 1 / 255):
            return None
    return f"{place} is a different {kind or 'body'} than expected"


def _pixel_distance(expected: str, actual: str) -> float:
    """The mean difference of two images' values, from 0 to 1; infinite if their sizes differ."""
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
    """The entries of a classifier's `top` by their label; None for any other list.

    Classes that share a label get their index as a suffix. The predictions for several instances
    are another list: each has a `top` of its own, and their order matters.
    """
    if not all(isinstance(v, Mapping) and "label" in v and "top" not in v for v in values):
        return None
    count = Counter(str(value["label"]) for value in values)
    entries = {
        label if count[label] == 1 else f"{label} ({value.get('index')})": value
        for label, value in ((str(value["label"]), value) for value in values)
    }
    return entries if values and len(entries) == len(values) else None


def distance_of(left: float, right: float) -> float:
    """The absolute difference of two numbers; infinite if it does not fit a float."""
    if left == right:
        return 0.0
    try:
        distance = abs(float(left) - float(right))
    except OverflowError:  # integers in JSON may have any size
        return math.inf
    return distance if math.isfinite(distance) else math.inf


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
