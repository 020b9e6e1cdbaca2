"""The form of requests to Hugging Face's inference API: `{"inputs": ..., "parameters": {...}}`.

It becomes the usual form, in which the parameters stand beside the input: `{"text": ..., "top_k":
2}`. Source: https://huggingface.co/docs/inference-providers/tasks/index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

INPUTS, PARAMETERS = "inputs", "parameters"


def has_several_inputs(value: Any) -> bool:
    """Whether a request has a list of inputs, which share their parameters."""
    return _is_request(value) and isinstance(value[INPUTS], list) and bool(value[INPUTS])


def flattened(payload: Any, field: str) -> Any:
    """Return a payload in the usual form; unchanged if it is not in the form of the API.

    Args:
        field: the name of an input that is not an object.
    """
    if not _is_request(payload):
        return payload
    inputs, parameters = payload[INPUTS], payload.get(PARAMETERS, {})
    fields = inputs if isinstance(inputs, Mapping) else {field: inputs}
    if not isinstance(parameters, Mapping) or fields.keys() & parameters.keys():
        return payload
    return {**fields, **parameters}


def request_schema(schema: Mapping[str, Any], inputs: Sequence[str]) -> dict[str, Any]:
    """JSON Schema of a request in the form of the API.

    Args:
        schema: that of a request in the usual form.
        inputs: the names of its fields that are inputs; the others are parameters.
    """
    fields, required = schema["properties"], schema["required"]
    parts = {
        INPUTS: {name: fields[name] for name in inputs},
        PARAMETERS: {name: fields[name] for name in fields if name not in inputs},
    }
    properties: dict[str, Any] = {
        part: {
            "type": "object",
            "properties": named,
            "required": [name for name in required if name in named],
            "additionalProperties": False,
        }
        for part, named in parts.items()
    }
    needed = [INPUTS, PARAMETERS] if properties[PARAMETERS]["required"] else [INPUTS]
    if len(properties[INPUTS]["required"]) == 1:
        properties[INPUTS] = {"anyOf": [fields[inputs[0]], properties[INPUTS]]}
    return {
        "type": "object",
        "properties": properties,
        "required": needed,
        "additionalProperties": False,
    }


def _is_request(value: Any) -> bool:
    return isinstance(value, Mapping) and INPUTS in value and value.keys() <= {INPUTS, PARAMETERS}
