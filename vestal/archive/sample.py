"""Choose the sample of a model that is being packed: an input, and the prediction for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.archive.examples import example_of
from vestal.client.encoding import JSON
from vestal.errors import VestalError
from vestal.inprocess import Input, LoadedArchive
from vestal.inprocess.loaded_archive import load_staged
from vestal.mar.sample import (
    TOLERANCES,
    Sample,
    find_difference,
    round_numbers,
    tolerance_of,
    value_of,
)
from vestal.recipes.request_body import content_type_of
from vestal.runs import SAMPLE, Run, stays_inside

SUFFIXES = (".png", ".jpg", ".json", ".txt")  # of the samples that a training saves


@dataclass(frozen=True)
class SampleResult:
    """The result of `add_sample`.

    Attributes:
        precision: the one in which the packed artifact computes.
        missing: why the archive has no sample; None if it has one.
    """

    precision: str
    missing: str | None = None


@dataclass(frozen=True)
class _SampleInput:
    """A request body; `required`: it is an error if the handler refuses it."""

    body: bytes
    content_type: str
    name: str
    required: bool = True


def add_sample(
    folder: Path,
    reference: Path,
    run: Run,
    engine: str,
    precision: str,
    file: Path | None = None,
) -> SampleResult:
    """Write `sample/` into a staged folder: an input and its expected prediction.

    The prediction is that of the reference, a folder staged with the run's first artifact in fp32.
    The staged folder must give the same, within the tolerance of its engine and precision, so an
    archive that cannot serve is found here. There is no sample if no input gets a prediction, or if
    the same input gets a different one each time.

    Args:
        file: the input; None: one of the run's test split, or the handler's example.

    Raises:
        VestalError: the handler does not load or refuses the input, or the predictions differ.
    """
    with load_staged(reference, run.model, batch_size=1) as loaded:
        own = _precision_of(loaded)
        chosen = _from_file(file) if file else _from_run(run) or _from_handler(loaded)
        if chosen is None:
            why = "its handler defines no example(), and no input follows from its input_schema()"
            return SampleResult(own or precision, why)
        prediction = _predict(loaded, chosen)
        if prediction is None:
            why = "its handler defines no example(), and refuses one made from its input_schema()"
            return SampleResult(own or precision, why)
        again = _predict(loaded, chosen)
    expected = round_numbers(prediction)
    if folder != reference:
        with load_staged(folder, run.model, batch_size=1) as loaded:
            own = _precision_of(loaded)
            prediction = _predict(loaded, chosen)
    precision = own or precision
    tolerance = tolerance_of(precision if precision in TOLERANCES else "fp32", engine)
    if find_difference(expected, again, tolerance):
        return SampleResult(precision, "its handler predicts differently for the same input")
    difference = find_difference(expected, prediction, tolerance)
    if difference:
        raise VestalError(
            f"the {engine} engine in {precision} predicts the sample differently from the "
            f"weights in fp32: {difference}"
        )
    Sample(chosen.body, chosen.content_type, chosen.name, expected, tolerance).write(folder)
    return SampleResult(precision)


def _from_file(file: Path) -> _SampleInput:
    """Read the input of `vestal pack --sample`."""
    name = f"input{file.suffix.lower()}"
    return _SampleInput(file.read_bytes(), content_type_of(file), name)


def _from_run(run: Run) -> _SampleInput | None:
    """Read an input of the run's test split; imported weights have none."""
    files = [
        file
        for file in sorted((run.folder / SAMPLE).glob("input.*"))
        if file.suffix in SUFFIXES and stays_inside(run.folder, f"{SAMPLE}/{file.name}")
    ]
    if not files:
        return None
    return _SampleInput(files[0].read_bytes(), content_type_of(files[0]), files[0].name)


def _from_handler(loaded: LoadedArchive) -> _SampleInput | None:
    """Return the handler's example, or a value that its schema allows."""
    try:
        described = loaded.describe()
    except VestalError:
        return None
    if not isinstance(described, Mapping):
        return None
    example, required = described.get("example"), True
    if example is None:
        example, required = example_of(described.get("input") or {}), False
    if example is None:
        return None
    return _SampleInput(json.dumps(example).encode(), JSON, "input.json", required)


def _predict(loaded: LoadedArchive, chosen: _SampleInput) -> Any:
    """Return the prediction's value; None if the handler refuses an input that is not required."""
    (response,) = loaded.predict([Input.raw(chosen.body, chosen.content_type)])
    if response.status == 200:
        return value_of(response.body, response.headers.get("content-type", ""))
    if not chosen.required:
        return None
    text = response.body.decode("utf-8", "replace")
    raise VestalError(f"the handler refuses its own sample: {text}")


def _precision_of(loaded: LoadedArchive) -> str | None:
    """Return the precision of the handler's engine; None for handlers that are not Vestal's."""
    describe = getattr(getattr(loaded.handler, "engine", None), "describe", None)
    found = describe() if callable(describe) else None
    return str(found["precision"]) if isinstance(found, Mapping) and "precision" in found else None
