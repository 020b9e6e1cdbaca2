"""Requests in every format, for the models `mnist` and `doubler`."""

from __future__ import annotations

import base64
import gzip
import json

from hostile import png, zipped_instances
from hostile import tensor as tensor_body
from imaging import encoded, seven
from test_requests import tensor

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
GZIP = {"Content-Encoding": "gzip"}
PNG = encoded(seven())
BASE64 = base64.b64encode(PNG).decode()


def multipart(**parts):
    """Return (headers, body) of a form; a part is text, or (file name, type, bytes)."""
    body = b""
    for name, part in parts.items():
        body += f'--xyz\r\nContent-Disposition: form-data; name="{name}"'.encode()
        if isinstance(part, str):
            body += b"\r\n\r\n" + part.encode()
        else:
            file, kind, data = part
            body += f'; filename="{file}"\r\nContent-Type: {kind}\r\n\r\n'.encode() + data
        body += b"\r\n"
    return {"Content-Type": "multipart/form-data; boundary=xyz"}, body + b"--xyz--\r\n"


def as_json(value, **headers):
    return {**JSON, **headers}, json.dumps(value).encode()


# name: model, headers, body
REQUESTS = {
    "image raw": ("mnist", {}, PNG),
    "image with its type": ("mnist", {"Content-Type": "image/png"}, PNG),
    "image called text": ("mnist", {"Content-Type": "text/plain"}, PNG),
    "image called JSON": ("mnist", JSON, PNG),
    "image as base64 text": ("mnist", {"Content-Type": "text/plain"}, BASE64.encode()),
    "image as JSON string": ("mnist", *as_json(BASE64)),
    "image as data URL": ("mnist", *as_json({"data": f"data:image/png;base64,{BASE64}"})),
    "image as b64": ("mnist", *as_json({"b64": BASE64})),
    "image instances": ("mnist", *as_json({"instances": [BASE64, "?", {"b64": BASE64}]})),
    "image file": ("mnist", *multipart(any=("x.png", "image/png", PNG))),
    "image files": ("mnist", *multipart(a=("x.png", "image/png", PNG), b=("y", "x/y", b"no"))),
    "image file and field": ("mnist", *multipart(a=("x.png", "image/png", PNG), b="text")),
    "image form field": ("mnist", *multipart(data=BASE64)),
    "image gzip": ("mnist", GZIP, gzip.compress(PNG)),
    "image as number": ("mnist", *as_json(7)),
    "empty": ("mnist", {}, b""),
    "empty JSON": ("mnist", JSON, b""),
    "no image": ("mnist", {}, b"hello"),
    "broken JSON": ("mnist", JSON, b'{"data": '),
    "JSON of another charset": ("mnist", JSON, '{"data": "é"}'.encode("latin-1")),
    "lone surrogate": ("mnist", JSON, b'{"data": "\\ud800"}'),
    "deep JSON": ("doubler", JSON, b"[" * 40 + b"]" * 40),
    "deepest JSON": ("doubler", JSON, b"[" * 20_000),
    "nameless form": ("doubler", FORM, b"1.5"),
    "form field": ("doubler", FORM, b"x=1.5"),
    "form fields": ("doubler", FORM, b"x=1.5&y=caf%C3%A9"),
    "number": ("doubler", *as_json(1.5)),
    "NaN": ("doubler", JSON, b"NaN"),
    "infinity": ("doubler", JSON, b"-Infinity"),
    "huge integer": ("doubler", JSON, b"1" * 400),
    "data": ("doubler", *as_json({"data": [1.5]})),
    "rows": ("doubler", *as_json([[1], ["a"], [13], {"x": 2}])),
    "too many rows": ("doubler", *as_json([[1]] * 300)),
    "instances": ("doubler", *as_json({"instances": [1, "a", 5]})),
    "no instances": ("doubler", *as_json({"instances": []})),
    "media": ("doubler", *as_json(9)),
    "fault of the model": ("doubler", *as_json(13)),
    "fault of decode": ("doubler", *as_json("broken decode")),
    "fault of encode": ("doubler", *as_json(7)),
    "not finite": ("doubler", *as_json(5)),
    "v2": ("doubler", *as_json(tensor([1, 2], [2], id="a"))),
    "v2 bad row": ("doubler", *as_json(tensor([1, 17], [2]))),
    "v2 bad shape": ("doubler", *as_json(tensor([1], [2]))),
    "gzip JSON": ("doubler", {**JSON, **GZIP}, gzip.compress(b"1.5")),
    "false gzip": ("doubler", {**JSON, **GZIP}, b"1.5"),
    "brotli": ("doubler", {"Content-Encoding": "br"}, b"1.5"),
    "trace": ("doubler", *as_json(1, traceparent="00-ab-cd-01", **{"X-Correlation-Id": "c;1"})),
}

# Small bodies that would need much memory, for `mnist`: headers, body.
LARGE = base64.b64encode(png(7000, 7000)).decode()
WIDE = base64.b64encode(png(8000, 1)).decode()
KILLERS = {
    "a tensor without values": (JSON, tensor_body([2**31, 0])),
    "many instances": ({**JSON, **GZIP}, zipped_instances(6_600_000)),
    "wide images": as_json({"instances": [WIDE] * 40}),
    "large images": as_json({"instances": [LARGE] * 250}),
}
