"""What goes into a handler that runs here, what comes out, and what TorchServe refuses itself."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OK = 200


class RefusedRequest(Exception):
    """TorchServe answers this request before any handler sees it.

    `kind` is TorchServe's word for it (`"type"` in its body); "" where its answer has no body.
    """

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.status, self.kind, self.reason = status, kind, reason

    def body(self) -> bytes:
        return error_body(self.status, self.kind, self.reason) if self.kind else b""


def error_body(status: int, kind: str, message: str) -> bytes:
    """JSON as TorchServe writes it."""
    error = {"code": status, "type": kind, "message": message}
    return (json.dumps(error, indent=2, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class Input:
    """One request: its parts by name (a raw body is the one part "body"), and its headers.

    A part is its bytes and its content type, as TorchServe hands them over: a form's text field
    has none ("").
    """

    parts: Mapping[str, tuple[bytes, str]]
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def raw(cls, body: bytes, content_type: str = "", **headers: str) -> Input:
        """A body as it is; `headers` by keyword."""
        named = {"content-type": content_type} if content_type else {}
        return cls({"body": (body, content_type)}, {**named, **headers})

    @classmethod
    def form(cls, fields: Mapping[str, str] | None = None, **files: tuple[bytes, str]) -> Input:
        """A multipart form of text fields, and of files with their content types."""
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
        """A body as sent over HTTP: forms are taken apart as TorchServe does it.

        Args:
            explain: as for `/explanations/MODEL`.

        Raises:
            RefusedRequest: TorchServe answers it itself.
        """
        from vestal.inprocess import forms

        sent = {"Content-Type": content_type} if content_type else {}
        sent |= {"Content-Length": str(len(body)), **(headers or {})}
        # TorchServe's own two, on every request.
        sent |= {"explain": str(explain), "url_path": ""}
        kind = content_type.partition(";")[0]
        boundary = forms.boundary_of(content_type)
        if boundary is not None:
            return cls(forms.read_multipart(body, boundary), sent)
        if kind.lower() == forms.URLENCODED:
            return cls(forms.read_urlencoded(body), sent)
        return cls({"body": (body, kind)}, sent)


@dataclass(frozen=True)
class Answer:
    """What the frontend would send for one request.

    `reached`: a handler was asked; where not, TorchServe itself refused the request.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    reached: bool = True

    @classmethod
    def of(cls, refused: RefusedRequest) -> Answer:
        """TorchServe's own answer."""
        headers = {"content-type": "application/json"} if refused.kind else {}
        return cls(refused.status, headers, refused.body(), reached=False)

    def json(self) -> Any:
        return json.loads(self.body)


def message_of(index: int, given: Input, decode: bool) -> dict[str, Any]:
    """A request as TorchServe's worker has it after parsing its frontend's message.

    `decode`: what `decode_input_request=true` does: JSON and text are decoded for the handler.
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
        return bytearray(value)  # as the worker does, with a line in its log


def answers_of(message: bytes) -> list[Answer]:
    """The inverse of `ts.protocol.otf_message_handler.create_predict_response`."""
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
    answers = []
    while struct.unpack_from("!i", message, position) != (-1,):
        take()  # request id
        take()  # content type: again among the headers
        status = integer()
        take()  # reason phrase
        headers = {take().decode(): take().decode() for _ in range(integer())}
        answers.append(Answer(status, headers, take()))
    if whole == OK:
        return answers
    # The batch failed whole: the frontend writes each of its answers itself.
    body = error_body(whole, "InternalServerException", text)
    return [Answer(whole, {"content-type": "application/json"}, body) for _ in answers]
