"""Inputs and responses of a handler that runs here, in the format of TorchServe's worker."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OK = 200


class RefusedRequest(Exception):
    """TorchServe refuses the request before it reaches a handler.

    `kind` is the `"type"` in the response's body; "" if the response has no body.
    """

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind, self.reason = status, kind, reason

    def body(self) -> bytes:
        return error_body(self.status, self.kind, self.reason) if self.kind else b""


def error_body(status: int, kind: str, message: str) -> bytes:
    """Return a body formatted like TorchServe's."""
    error = {"code": status, "type": kind, "message": message}
    return (json.dumps(error, indent=2, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class Input:
    """A parsed request: its headers, and its parts by name (the only part of a raw body is "body").

    A part has bytes and a content type, which is "" for a text field of a form.
    """

    parts: Mapping[str, tuple[bytes, str]]
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def raw(cls, body: bytes, content_type: str = "", **headers: str) -> Input:
        """Make an input of an unparsed body, with `headers` by keyword."""
        named = {"content-type": content_type} if content_type else {}
        return cls({"body": (body, content_type)}, {**named, **headers})

    @classmethod
    def form(cls, fields: Mapping[str, str] | None = None, **files: tuple[bytes, str]) -> Input:
        """Make an input of text fields, and of files with their content types."""
        texts = {name: (value.encode(), "") for name, value in (fields or {}).items()}
        return cls({**texts, **files}, {"content-type": "multipart/form-data; boundary=x"})

    @classmethod
    def from_http(
        cls,
        body: bytes,
        content_type: str = "",
        headers: Mapping[str, str] | None = None,
        *,
        explain: bool = False,
    ) -> Input:
        """Parse a body as sent over HTTP; a form becomes several parts.

        Args:
            explain: whether the request is for `/explanations/MODEL`.

        Raises:
            RefusedRequest: the body is a broken form.
        """
        from vestal.inprocess import forms

        sent = {"Content-Type": content_type} if content_type else {}
        sent |= {"Content-Length": str(len(body)), **(headers or {})}
        # TorchServe adds these two to every request.
        sent |= {"explain": str(explain), "url_path": ""}
        kind = content_type.partition(";")[0]
        boundary = forms.boundary_of(content_type)
        if boundary is not None:
            return cls(forms.read_multipart(body, boundary), sent)
        if kind.lower() == forms.URLENCODED:
            return cls(forms.read_urlencoded(body), sent)
        return cls({"body": (body, kind)}, sent)


@dataclass(frozen=True)
class Response:
    """The response to one request; `reached` is False if the request did not reach a handler."""

    status: int
    headers: dict[str, str]
    body: bytes
    reached: bool = True

    @classmethod
    def refusing(cls, refused: RefusedRequest) -> Response:
        """Make the response to a refused request."""
        headers = {"content-type": "application/json"} if refused.kind else {}
        return cls(refused.status, headers, refused.body(), reached=False)

    def json(self) -> Any:
        return json.loads(self.body)


def message_of(index: int, given: Input, decode: bool) -> dict[str, Any]:
    """Return a request in the format that TorchServe's worker passes to its service.

    `decode`: decode JSON and text, as `decode_input_request=true` does.
    """
    return {
        "requestId": f"local-{index}".encode(),
        "headers": [{"name": k.encode(), "value": v.encode()} for k, v in given.headers.items()],
        "parameters": [
            {
                "name": name,
                "contentType": kind,
                "value": _decoded(value, kind) if decode else bytearray(value),
            }
            for name, (value, kind) in given.parts.items()
        ],
    }


def _decoded(value: bytes, kind: str) -> Any:
    try:
        if kind == "application/json":
            return json.loads(value.decode("utf-8"))
        return value.decode("utf-8") if kind.startswith("text") else bytearray(value)
    except (ValueError, RecursionError):
        return bytearray(value)  # a worker does the same, with a line in its log


def responses_of(message: bytes) -> list[Response]:
    """Parse what `ts.protocol.otf_message_handler.create_predict_response` has made."""
    position = 0

    def integer() -> int:
        nonlocal position
        (value,) = struct.unpack_from("!i", message, position)
        position += 4
        return int(value)

    def take() -> bytes:
        nonlocal position
        length = integer()
        position += length
        return message[position - length : position]

    whole, text = integer(), take().decode()
    responses = []
    while struct.unpack_from("!i", message, position) != (-1,):
        take()  # request id
        take()  # content type, which is also in the headers
        status = integer()
        take()  # reason phrase
        headers = {take().decode(): take().decode() for _ in range(integer())}
        responses.append(Response(status, headers, take()))
    if whole == OK:
        return responses
    # The whole batch failed, so the frontend writes each response.
    body = error_body(whole, "InternalServerException", text)
    return [Response(whole, {"content-type": "application/json"}, body) for _ in responses]
