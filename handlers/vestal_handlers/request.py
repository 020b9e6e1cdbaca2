"""From what TorchServe hands to a handler to instances: one for each thing to predict.

TorchServe gives one dict a request: a raw body under "body" or "data", multipart and form fields
under their names. Values are bytes, or what the server has parsed already
(`decode_input_request=true`): str for text, any JSON value for JSON. Both ways give the same here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vestal_handlers.errors import Failure, InputError
from vestal_handlers.options import Options

# Echoed to the caller: nothing else of a request reaches the headers of an answer.
ECHOED_HEADERS = ("traceparent", "x-correlation-id")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


@dataclass(eq=False)
class Instance:
    """One thing to predict, and its fate.

    `payload` is bytes, str or a JSON value; then come `sample` (decoded), `output` (the model's)
    and `answer` (encoded), or `error`.
    """

    request: Request
    payload: Any
    sample: Any = None
    output: Any = None
    answer: Any = None
    error: Failure | None = None


@dataclass(eq=False)
class Request:
    """One HTTP request of a batch.

    `many`: it asked for several predictions, so its answer is a list. `error`: it failed whole.
    """

    index: int
    id: str
    headers: dict[str, str]
    instances: list[Instance] = field(default_factory=list)
    many: bool = False
    error: Failure | None = None

    def asks_for(self, what: str) -> bool:
        """TorchServe marks each `describe` and `explain` request by a header of that name."""
        return self.headers.get(what) == "True"

    def echoes(self) -> dict[str, str]:
        found = {name: self.headers.get(name, "") for name in ECHOED_HEADERS}
        return {name: _UNPRINTABLE.sub("", value)[:256] for name, value in found.items() if value}


def read_request(
    index: int,
    request_id: str,
    row: Mapping[str, Any],
    headers: Mapping[str, Any],
    options: Options,
) -> Request:
    """Finds the instances of one request; what cannot be read becomes the request's `error`.

    Args:
        row: one dict of the list that TorchServe gives to `handle`.
        headers: of the request, and `{"content-type": ...}` under each field's name.
    """
    lowered = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    request = Request(index, request_id, lowered)
    if request.asks_for("describe"):
        return request
    try:
        payloads: list[Any] = []
        for name, value in row.items():
            part = headers.get(name)
            kind = part.get("content-type", "") if isinstance(part, Mapping) else ""
            found = _parse(value, kind or "", options)
            many = isinstance(found, _Many)
            request.many = request.many or many
            payloads.extend(found.payloads if isinstance(found, _Many) else [found])
        if not payloads:
            raise InputError(400, "the request has no body: send the input as the body")
        if len(payloads) > options.max_instances:
            raise InputError(
                413,
                f"{len(payloads)} instances in one request, at most {options.max_instances} "
                "(handler.max_instances)",
            )
        request.many = request.many or len(payloads) > 1
        request.instances = [Instance(request, payload) for payload in payloads]
    except Failure as failure:
        request.error = failure
    return request


@dataclass(frozen=True)
class _Many:
    payloads: list[Any]


def _parse(value: Any, content_type: str, options: Options) -> Any:
    """bytes stay bytes, text becomes str, JSON is opened: `{"data": x}`, `{"instances": [...]}`."""
    kind = content_type.partition(";")[0].strip().lower()
    if isinstance(value, bytearray | bytes):
        if len(value) > options.max_bytes:
            raise InputError(
                413, f"{len(value):,} bytes, at most {options.max_bytes:,} (handler.max_bytes)"
            )
        if kind == "application/json" or kind.endswith("+json"):
            value = _json(value)
        elif kind.startswith("text/"):
            try:
                return bytes(value).decode("utf-8")
            except UnicodeDecodeError:
                return value
        else:
            return value
    if isinstance(value, Mapping) and "instances" in value:
        instances = value["instances"]
        if not isinstance(instances, list) or not instances:
            raise InputError(422, '"instances" must be a list of at least one instance')
        return _Many([_opened(instance) for instance in instances])
    return _opened(value)


def _opened(value: Any) -> Any:
    return value["data"] if isinstance(value, Mapping) and set(value) == {"data"} else value


def _json(value: bytes | bytearray) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(400, f"the body says it is JSON but is not: {error}"[:300]) from None
