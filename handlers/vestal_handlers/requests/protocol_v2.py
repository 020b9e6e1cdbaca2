"""The Open Inference Protocol v2 over REST: tensors in, tensors out.

`{"id": ..., "inputs": [{"name", "shape", "datatype", "data"}]}`; the first dimension is the batch.
If one row of a tensor fails, the whole request fails, and the error names the row.
Source: https://github.com/kserve/open-inference-protocol (inference REST API).
"""

from __future__ import annotations

import math
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

_MAX_DIMENSIONS = 32  # NumPy supports 64
_MAX_ID = 256  # characters; the response repeats them


@dataclass(frozen=True)
class V2Request:
    """The part of a v2 request that its response repeats."""

    id: str | None


def is_v2(value: Any) -> bool:
    """Whether a JSON document is a v2 inference request."""
    inputs = value.get("inputs") if isinstance(value, dict) else None
    return isinstance(inputs, list) and all(
        isinstance(tensor, dict) and "datatype" in tensor for tensor in inputs
    )


def announced_row_count(document: dict[str, Any]) -> int:
    """The largest number of rows in the shapes of a request; 1 without a valid shape."""
    shapes = [tensor.get("shape") for tensor in document["inputs"]]
    counts = [shape[0] for shape in shapes if isinstance(shape, list) and shape]
    return max((count for count in counts if _is_size(count)), default=1)


def rows(document: dict[str, Any]) -> tuple[V2Request, list[Any]]:
    """Return the rows of a request: values for one input, `{name: row}` for several.

    Raises:
        InputError: 422 a tensor whose shape, datatype and data are inconsistent.
    """
    if not document["inputs"]:
        raise InputError(422, '"inputs" must have at least one tensor')
    tensors = document["inputs"]
    columns = {str(tensor.get("name", "")): _rows(tensor, len(tensors) > 1) for tensor in tensors}
    if len(columns) != len(tensors):
        raise InputError(422, "two inputs have the same name; use different names")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) != 1:
        raise InputError(422, f"the inputs have {sorted(lengths)} rows; all need the same number")
    v2_request = V2Request(_id_of(document))
    if len(columns) == 1:
        return v2_request, next(iter(columns.values()))
    names = list(columns)
    return v2_request, [
        dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)
    ]


def _id_of(document: dict[str, Any]) -> str | None:
    request_id = document.get("id")
    if isinstance(request_id, list | dict) or len(str(request_id)) > _MAX_ID:
        raise InputError(422, f'"id" must be a string of at most {_MAX_ID} characters')
    return None if request_id is None else str(request_id)


def _rows(tensor: dict[str, Any], is_one_of_several: bool) -> list[Any]:
    name, kind = tensor.get("name"), tensor["datatype"]
    shape, data = tensor.get("shape"), tensor.get("data")
    what = f"input {str(name)[:40]!r}" if isinstance(name, str) else "an input"
    if not isinstance(name, str) or not isinstance(data, list):
        raise InputError(422, f"{what}: expected a name and a list as data")
    if isinstance(shape, list) and len(shape) > _MAX_DIMENSIONS:
        raise InputError(
            422, f"{what}: {len(shape)} dimensions in its shape, at most {_MAX_DIMENSIONS}"
        )
    if not isinstance(shape, list) or not shape or not all(_is_size(size) for size in shape):
        raise InputError(422, f"{what}: shape must be a list of sizes, not {str(shape)[:60]}")
    # [1000000, 0] has no values, but would become a million empty lists.
    if 0 in shape[1:]:
        raise InputError(422, f"{what}: shape {shape} has no values; only the first size may be 0")
    if kind != "BYTES" and kind not in _NUMBERS:
        raise InputError(
            422,
            f"{what}: datatype {str(kind)[:40]!r} is unknown; expected BYTES or one of "
            f"{', '.join(_NUMBERS)}",
        )
    try:
        array: np.ndarray[Any, Any] = np.array(
            data, dtype=object if kind == "BYTES" else _NUMBERS[kind]
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(422, f"{what}: data is not {kind}: {error}"[:200]) from None
    if kind == "BYTES" and not all(isinstance(item, str) for item in array.flat):
        raise InputError(422, f"{what}: data of BYTES must be strings")
    if array.size != math.prod(shape):
        raise InputError(
            422, f"{what}: shape {shape} needs {math.prod(shape)} values, got {array.size}"
        )
    values: list[Any] = array.reshape(shape).tolist()
    # Clients send a column of texts, or one of several features, as [N, 1].
    if (kind == "BYTES" or is_one_of_several) and len(shape) == 2 and shape[1] == 1:
        values = [row[0] for row in values]
    return values


def _is_size(size: Any) -> bool:
    return type(size) is int and 0 <= size <= 2**31


def response(
    v2_request: V2Request, model: str, version: str, predictions: Sequence[Any]
) -> dict[str, Any]:
    """Return the scalar fields of the predictions as tensors of shape [N].

    Predictions that are not objects become one tensor, `output`.
    """
    columns: dict[str, list[Any]] = {}
    for prediction in predictions:
        fields = prediction if isinstance(prediction, dict) else {"output": prediction}
        for name, value in fields.items():
            if isinstance(value, str | int | float):
                columns.setdefault(name, []).append(value)
    outputs = [
        {"name": name, "shape": [len(values)], "datatype": _datatype(values), "data": values}
        for name, values in columns.items()
        if len(values) == len(predictions)
    ]
    request_id = {} if v2_request.id is None else {"id": v2_request.id}
    return {"model_name": model, "model_version": version, **request_id, "outputs": outputs}


def _datatype(values: list[Any]) -> str:
    if all(isinstance(value, bool) for value in values):
        return "BOOL"
    if all(isinstance(value, int) for value in values):
        return "INT64"
    return "BYTES" if any(isinstance(value, str) for value in values) else "FP64"
