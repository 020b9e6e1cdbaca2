"""The golden answer: one input of a model that is being packed, and the answer right for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vestal.archive.examples import example_of
from vestal.client.encoding import JSON
from vestal.errors import VestalError
from vestal.inprocess import Answer, Input, LoadedArchive
from vestal.inprocess.loaded_archive import load_staged
from vestal.mar.sample import (
    TOLERANCES,
    Sample,
    matches,
    round_numbers,
    tolerance_of,
    value_of,
)
from vestal.recipes.request_body import content_type_of
from vestal.runs import SAMPLE, Run, stays_inside

SUFFIXES = (".png", ".jpg", ".json", ".txt")  # of the samples that a training keeps


@dataclass(frozen=True)
class Golden:
    """What `add_golden` found.

    Attributes:
        precision: in which the packed artifact computes: the one asked for, or its own.
        missing: why the archive has no sample; None where it has one.
    """

    precision: str
    missing: str | None = None


@dataclass(frozen=True)
class _Asked:
    """An input. `sure`: the handler must answer it; else it is a guess."""

    input: Input
    body: bytes
    content_type: str
    name: str
    sure: bool = True


def add_golden(
    folder: Path,
    reference: Path,
    run: Run,
    engine: str,
    precision: str,
    sample: Path | None = None,
) -> Golden:
    """Put `sample/` into a staged folder: an input, and the answer that is right for it.

    The answer is the reference's, a folder staged with the run's first artifact in fp32; the
    staged one must give it too, within the tolerance of its engine and precision. So a pack whose
    archive cannot serve fails here. Without an input that the handler answers, or where it answers
    the same input differently each time, there is no sample.

    Raises:
        VestalError: it does not load, refuses the input, or answers differently.
    """
    with load_staged(reference, run.model, batch_size=1) as loaded:
        own = _precision_of(loaded)
        asked = _from_file(sample) if sample else _sample_of(run) or _example_of(loaded)
        if asked is None:
            why = "its handler defines no example(), and no input follows from its input_schema()"
            return Golden(own or precision, why)
        answer = _answer(loaded, asked)
        if answer is None:
            why = "its handler defines no example(), and refuses one made from its input_schema()"
            return Golden(own or precision, why)
        again = _answer(loaded, asked)
    right = round_numbers(answer)
    if folder != reference:
        with load_staged(folder, run.model, batch_size=1) as loaded:
            own = _precision_of(loaded)
            answer = _answer(loaded, asked)
    precision = own or precision
    tolerance = tolerance_of(precision if precision in TOLERANCES else "fp32", engine)
    if matches(right, again, tolerance):
        return Golden(precision, "its handler answers the same input differently each time")
    difference = matches(right, answer, tolerance)
    if difference:
        raise VestalError(
            f"the {engine} engine in {precision} answers the sample otherwise than the "
            f"weights do: {difference}"
        )
    Sample(asked.body, asked.content_type, asked.name, right, tolerance).write(folder)
    return Golden(precision)


def _from_file(file: Path) -> _Asked:
    """The input of `vestal pack --sample`."""
    return _asked(file.read_bytes(), content_type_of(file), f"input{file.suffix.lower()}")


def _sample_of(run: Run) -> _Asked | None:
    """An input of the run's test split; weights from elsewhere come without."""
    files = [
        file
        for file in sorted((run.folder / SAMPLE).glob("input.*"))
        if file.suffix in SUFFIXES and stays_inside(run.folder, f"{SAMPLE}/{file.name}")
    ]
    if not files:
        return None
    return _asked(files[0].read_bytes(), content_type_of(files[0]), files[0].name)


def _example_of(loaded: LoadedArchive) -> _Asked | None:
    """What the handler says that it answers, or a value that its schema allows."""
    try:
        described = loaded.describe()
    except VestalError:
        return None
    if not isinstance(described, Mapping):
        return None
    example, sure = described.get("example"), True
    if example is None:
        example, sure = example_of(described.get("input") or {}), False
    if example is None:
        return None
    return _asked(json.dumps(example).encode(), JSON, "input.json", sure)


def _asked(body: bytes, content_type: str, name: str, sure: bool = True) -> _Asked:
    return _Asked(Input.raw(body, content_type), body, content_type, name, sure)


def _answer(loaded: LoadedArchive, asked: _Asked) -> Any:
    """The answer's value; None where a guess is refused."""
    answer: Answer
    (answer,) = loaded.predict([asked.input])
    if answer.status == 200:
        return value_of(answer.body, answer.headers.get("content-type", ""))
    if not asked.sure:
        return None
    text = answer.body.decode("utf-8", "replace")
    raise VestalError(f"the handler refuses its own sample: {text}")


def _precision_of(loaded: LoadedArchive) -> str | None:
    """What its engine computes in; None of a handler that is not Vestal's."""
    describe = getattr(getattr(loaded.handler, "engine", None), "describe", None)
    found = describe() if callable(describe) else None
    return str(found["precision"]) if isinstance(found, Mapping) and "precision" in found else None
