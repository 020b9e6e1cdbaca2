"""The Open Inference Protocol v2 over REST: tensors in, tensors out.

`{"id": ..., "inputs": [{"name", "shape", "datatype", "data"}]}`; the first dimension is the batch.
A tensor is whole: when one of its rows fails, the request does, naming the row.
Source: https://github.com/kserve/open-inference-protocol (inference REST API).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vestal_handlers.errors import InputError

_NUMBERS = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@dataclass(frozen=True)
class Frame:
    """What an answer repeats of its request."""

    id: str | None


def is_v2(value: Any) -> bool:
    """Whether a JSON document is a v2 inference request."""
    inputs = value.get("inputs") if isinstance(value, dict) else None
    return isinstance(inputs, list) and all(
        isinstance(tensor, dict) and "datatype" in tensor for tensor in inputs
    )


def rows(document: dict[str, Any]) -> tuple[Frame, list[Any]]:
    """The rows of a request: one input gives its rows, several give `{name: row}`.

    Raises:
        InputError: 422 a tensor whose shape, datatype and data do not fit together.
    """
    if not document["inputs"]:
        raise InputError(422, '"inputs" must hold at least one tensor')
    tensors = document["inputs"]
    columns = {str(tensor.get("name", "")): _rows(tensor, len(tensors) > 1) for tensor in tensors}
    if len(columns) != len(tensors):
        raise InputError(422, "every input needs a name of its own")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise InputError(422, f"the inputs have {sorted(lengths)} rows: their batch must be one")
    identity = document.get("id")
    frame = Frame(None if identity is None else str(identity))
    if len(columns) == 1:
        return frame, next(iter(columns.values()))
    names = list(columns)
    return frame, [
        dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)
    ]


def _rows(tensor: dict[str, Any], beside_others: bool) -> list[Any]:
    name, kind = tensor.get("name"), tensor["datatype"]
    shape, data = tensor.get("shape"), tensor.get("data")
    what = f"input {name!r}"
    if not isinstance(name, str) or not isinstance(data, list):
        raise InputError(422, f"{what}: expected a name and a list as data")
    if not isinstance(shape, list) or not shape or not all(_is_size(size) for size in shape):
        raise InputError(422, f"{what}: shape must be a list of sizes, not {str(shape)[:60]}")
    if kind != "BYTES" and kind not in _NUMBERS:
        raise InputError(
            422, f"{what}: datatype {str(kind)[:40]!r} is none of BYTES, {', '.join(_NUMBERS)}"
        )
    try:
        array: np.ndarray[Any, Any] = np.array(
            data, dtype=object if kind == "BYTES" else _NUMBERS[kind]
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(422, f"{what}: data is not {kind}: {error}"[:200]) from None
    if kind == "BYTES" and not all(isinstance(item, str) for item in array.flat):
        raise InputError(422, f"{what}: data of BYTES must be strings")
    if array.size != np.prod(shape, dtype=object):
        raise InputError(
            422,
            f"{what}: shape {shape} wants {np.prod(shape, dtype=object)} values, got {array.size}",
        )
    found: list[Any] = array.reshape(shape).tolist()
    # [N, 1] is how clients write a column of texts, and of one feature among several.
    if (kind == "BYTES" or beside_others) and len(shape) == 2 and shape[1] == 1:
        found = [row[0] for row in found]
    return found


def _is_size(size: Any) -> bool:
    return type(size) is int and 0 <= size <= 2**31


def response(frame: Frame, model: str, version: str, answers: Sequence[Any]) -> dict[str, Any]:
    """The answers' scalar fields as tensors of shape [N].

    Answers that are no objects become one output, `output`.
    """
    columns: dict[str, list[Any]] = {}
    for answer in answers:
        fields = answer if isinstance(answer, dict) else {"output": answer}
        for name, value in fields.items():
            if isinstance(value, str | int | float):
                columns.setdefault(name, []).append(value)
    outputs = [
        {"name": name, "shape": [len(values)], "datatype": _datatype(values), "data": values}
        for name, values in columns.items()
        if len(values) == len(answers)
    ]
    identity = {} if frame.id is None else {"id": frame.id}
    return {"model_name": model, "model_version": version, **identity, "outputs": outputs}


def _datatype(values: list[Any]) -> str:
    if all(isinstance(value, bool) for value in values):
        return "BOOL"
    if all(isinstance(value, int) for value in values):
        return "INT64"
    return "BYTES" if any(isinstance(value, str) for value in values) else "FP64"
