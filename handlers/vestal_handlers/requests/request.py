"""Read a request from TorchServe: one instance for each input to predict.

TorchServe passes one dict per request: a raw body under "body" or "data", multipart and form fields
under their names. Values are bytes or, with `decode_input_request=true`, already parsed: str for
text, any JSON value for JSON. The result is the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from vestal_handlers.errors import InputError, RequestFailure
from vestal_handlers.options import Options
from vestal_handlers.requests import protocol_v2
from vestal_handlers.requests.body import (
    check_depth,
    check_size,
    check_text,
    check_values,
    decompress,
    is_json,
    media_type,
    parse_json,
)
from vestal_handlers.requests.charsets import (
    charset_error,
    codec_of,
    decode_text,
    is_multipart,
    text_or_bytes,
)
from vestal_handlers.requests.inference_api import flattened, has_several_inputs

# No other header of a request is repeated in the response.
ECHOED_HEADERS = ("traceparent", "x-correlation-id")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class BodySettings(Protocol):
    """How a handler reads bodies; see `TaskHooks`."""

    options: Any
    rows_are_instances: ClassVar[bool]
    json_bodies: ClassVar[bool]
    input_field: ClassVar[str | None]


@dataclass(eq=False)
class Instance:
    """One input to predict and its result.

    Attributes:
        payload: bytes or bytearray, str, or a JSON value.
        form: whether the payload was sent as form fields, so that its values are strings.
        sample: the decoded payload.
        output: the output of the model for the sample.
        prediction: the encoded output, or the explanation.
        body: the prediction as JSON.
        error: the reason why there is no prediction.
    """

    request: InferenceRequest
    payload: Any
    form: bool = False
    sample: Any = None
    output: Any = None
    prediction: Any = None
    body: bytes = b""
    error: RequestFailure | None = None

    @property
    def fields(self) -> Mapping[str, Any]:
        """The payload if it is an object; empty otherwise."""
        return self.payload if isinstance(self.payload, Mapping) else {}


@dataclass(eq=False)
class InferenceRequest:
    """One HTTP request of a batch.

    Attributes:
        headers: values by name in lower case.
        many: whether the response is a list of predictions.
        v2: set if the request uses the Open Inference Protocol v2; so does its response then.
        error: the reason why the whole request failed.
        size: bytes of the decompressed parts.
    """

    index: int
    id: str
    headers: dict[str, str]
    instances: list[Instance] = field(default_factory=list)
    many: bool = False
    v2: protocol_v2.V2Request | None = None
    error: RequestFailure | None = None
    size: int = 0

    def has_flag(self, name: str) -> bool:
        """Whether TorchServe marked this as a `describe` or `explain` request, by a header."""
        return self.headers.get(name) == "True"

    def echoed_headers(self) -> dict[str, str]:
        values = {name: self.headers.get(name, "") for name in ECHOED_HEADERS}
        return {name: _UNPRINTABLE.sub("", value)[:256] for name, value in values.items() if value}


def pending_instances(requests: Iterable[InferenceRequest]) -> list[Instance]:
    """Instances without an error, those of requests with few instances first."""
    pending = [i for r in requests if not r.error for i in r.instances if not i.error]
    return sorted(pending, key=lambda instance: len(instance.request.instances))


def read_request(
    index: int,
    request_id: str,
    row: Mapping[str, Any],
    headers: Mapping[str, Any],
    task: BodySettings,
) -> InferenceRequest:
    """Find the instances of one request; a request that cannot be read gets an `error`.

    Args:
        row: one dict of the list that TorchServe passes to `handle`.
        headers: those of the request, and `{"content-type": ...}` under the name of each field.
        task: the handler, whose settings determine how bodies are read.
    """
    lowered = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    request = InferenceRequest(index, request_id, lowered)
    if request.has_flag("describe"):
        return request
    try:
        check_values(len(row), task.options)
        if media_type(lowered.get("content-type")) in _FORMS:
            _read_form(request, row, headers, task)
        else:
            for name, value in row.items():
                _add(request, _value(value, _part_type(headers, name), request, task), task)
            request.many = request.many or len(row) > 1
        _check_count(len(request.instances), task.options)
    except RequestFailure as failure:
        request.error = failure.detached()
        request.instances.clear()
    return request


def _read_form(
    request: InferenceRequest,
    row: Mapping[str, Any],
    headers: Mapping[str, Any],
    task: BodySettings,
) -> None:
    """Read each file as an instance, or the fields of a form without files as one object."""
    files = {name: value for name, value in row.items() if _part_type(headers, name)}
    fields = {name: value for name, value in row.items() if name not in files}
    _check_count(max(1, len(files)), task.options)
    if files and fields:
        raise InputError(
            422, f"a form with files cannot have other fields; remove {', '.join(fields)}"[:200]
        )
    if not row:
        # TorchServe drops a form body without a name, which `curl -d 'text'` sends.
        raise InputError(
            400,
            "the form has no named field; send name=value, or the body itself with its "
            "Content-Type (curl -H 'Content-Type: application/json' -d ..., or curl -T FILE)",
        )
    for name, value in files.items():
        _add(request, _value(value, _part_type(headers, name), request, task), task)
    request.many = request.many or len(files) > 1
    if fields:
        texts = {
            name: _text(decompress(value, "", task.options), request) if _is_bytes(value) else value
            for name, value in fields.items()
        }
        if is_multipart(request.headers) and any(map(_is_bytes, texts.values())):
            raise charset_error("a field")
        request.instances.append(Instance(request, _payload(texts, task), form=True))


def _add(request: InferenceRequest, value: Any, task: BodySettings) -> None:
    """Add the instances of a value: one, or those of `{"instances": [...]}`, of `{"inputs":
    [...]}` or of v2 tensors.

    Instances are counted before they are created.
    """
    if protocol_v2.is_v2(value):
        _check_count(protocol_v2.announced_row_count(value), task.options)
        request.v2, payloads = protocol_v2.rows(value)
    elif isinstance(value, Mapping) and "instances" in value:
        payloads = value["instances"]
        if not isinstance(payloads, list) or not payloads:
            raise InputError(422, '"instances" must be a list of at least one instance')
        _check_count(len(request.instances) + len(payloads), task.options)
        payloads = [_payload(payload, task) for payload in payloads]
    elif task.input_field and has_several_inputs(value):
        _check_count(len(request.instances) + len(value["inputs"]), task.options)
        payloads = [_payload({**value, "inputs": each}, task) for each in value["inputs"]]
    else:
        value = _payload(value, task)
        if not (task.rows_are_instances and isinstance(value, list) and value and _all_rows(value)):
            request.instances.append(Instance(request, value))
            return
        payloads = value
        _check_count(len(request.instances) + len(payloads), task.options)
    request.many = True
    request.instances += [Instance(request, payload) for payload in payloads]


def _all_rows(values: list[Any]) -> bool:
    return all(isinstance(value, list | Mapping) for value in values)


def _payload(value: Any, task: BodySettings) -> Any:
    """A payload without an envelope."""
    value = flattened(value, task.input_field) if task.input_field else value
    return value["data"] if isinstance(value, Mapping) and set(value) == {"data"} else value


def _check_count(count: int, options: Options) -> None:
    if not count:
        raise InputError(400, "the request has no body; send the input as the body")
    if count > options.max_instances:
        raise InputError(
            413,
            f"{count} instances in one request, at most {options.max_instances} "
            "(handler.max_instances)",
        )


def _part_type(headers: Mapping[str, Any], name: str) -> str:
    part = headers.get(name)
    return media_type(part.get("content-type")) if isinstance(part, Mapping) else ""


def _value(value: Any, kind: str, request: InferenceRequest, task: BodySettings) -> Any:
    """Decode text to str and parse JSON; other bytes are returned unchanged."""
    options, encoding = task.options, request.headers.get("content-encoding", "")
    is_text = kind.startswith("text/")
    if not _is_bytes(value):
        # The server has parsed it, so it was not compressed, even if a header states so.
        decompress(b"", encoding, options)
        check_depth(value, options)
        check_text(value)
        if is_text and isinstance(value, str):
            value = _text(value.encode(), request)  # the server has decoded it as UTF-8
        unparsed = task.json_bodies and isinstance(value, str) and not is_json(kind)
        return parse_json(value.encode(), options) if unparsed else value
    data = decompress(value, encoding, options)
    request.size += len(data)
    check_size(request.size, options)
    if task.json_bodies or is_json(kind):
        codec = _codec(request) if is_text or is_json(kind) else None
        return parse_json(decode_text(data, codec).encode() if codec else data, options)
    return _text(data, request) if is_text else data


def _codec(request: InferenceRequest) -> str | None:
    """The codec of a body; None for a form, whose charset is not that of its parts."""
    multipart = is_multipart(request.headers)
    return None if multipart else codec_of(request.headers.get("content-type", ""))


def _text(data: bytes | bytearray, request: InferenceRequest) -> str | bytes | bytearray:
    text = text_or_bytes(data, _codec(request))
    if isinstance(text, str) and "\0" in text and is_multipart(request.headers):
        raise charset_error("the text")  # most likely ASCII in UTF-16
    return text


def _is_bytes(value: Any) -> bool:
    return isinstance(value, bytes | bytearray)
