"""Forms give the parts that a server passes to a handler."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from vestal.inprocess.forms import read_multipart, read_urlencoded
from vestal.inprocess.messages import Input, RefusedRequest, Response

RECORDED = json.loads((Path(__file__).parents[1] / "forms" / "recorded.json").read_text("utf-8"))
PNG = b"\x89PNG\r\n\x1a\n--\x00\xff\n--x\r\r\n%zz+&=;\x00"
FIELDS = {
    "text": "café ☃ a+b=c&d",
    "lines": "one\r\ntwo",
    "empty": "",
    "x[]": "2",
    "é": "accent",
}
# TorchServe replaces some characters in the names of multipart fields.
FORM_FIELDS = FIELDS | {"input 0": "1.5", "a b c d e": "special", "quo%22te": "quote"}
URLENCODED_FIELDS = FIELDS | {"input:0": "1.5", "a b;c,d=e": "special", 'quo"te': "quote"}
FILES = {
    "image": (PNG, "image/png"),
    "plain": ("ä\n".encode(), "text/plain"),
    "json": (b'{"data": 1}', "application/json"),
    "typed": (b'{"data": 2}', "application/json"),
    "bytes": (b"\r\n", "application/octet-stream"),
    "nothing": (b"", "image/png"),
}
PART = (
    b'--b\r\nContent-Disposition: form-data; name="a"; filename="x.png"\r\n'
    b"Content-Type: image/png\r\n\r\nDATA\r\n"
)
FIELD = b'--b\r\nContent-Disposition: form-data; name="t"\r\n\r\ntext\r\n'
END = b"--b--\r\n"
BOTH = {"a": (b"DATA", "image/png"), "t": (b"text", "")}


def as_parts(fields):
    return {name: (value.encode(), "") for name, value in fields.items()}


def recorded(name):
    body = RECORDED["bodies"][name]
    return Input.from_http(base64.b64decode(body["body"]), body["content_type"]).parts


@pytest.mark.parametrize(
    ("client", "more"),
    [
        ("requests multipart", FILES),
        ("httpx multipart", FILES),
        ("node FormData", FILES | {"blob": (b"no name", "application/octet-stream")}),
        ("chromium FormData", FILES | {"blob": (b"no name", "application/octet-stream")}),
        ("chromium form multipart", {"unchosen": (b"", "application/octet-stream")}),
    ],
)
def test_multipart_forms_of_real_clients(client, more):
    assert recorded(client) == as_parts(FORM_FIELDS) | more


def test_multipart_forms_of_curl():
    fields = {name: value for name, value in FORM_FIELDS.items() if name != "a b c d e"}
    expected = as_parts(fields | {"typed field": "{}", "content": '{"data": 1}'})
    expected |= {name: FILES[name] for name in ("image", "plain", "json")}
    expected |= {"typed": FILES["json"], "renamed": FILES["image"]}
    assert recorded("curl multipart") == expected
    last = (b'{"data": 1}', "application/octet-stream")  # curl does not know the suffix .json
    assert recorded("curl two files of one name") == {"a": last}


@pytest.mark.parametrize(
    "client",
    ["requests urlencoded", "httpx urlencoded", "node URLSearchParams", "chromium URLSearchParams"],
)
def test_urlencoded_forms_of_real_clients(client):
    assert recorded(client) == as_parts(URLENCODED_FIELDS)


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ("-d fields", {"a": "1", "b": "c d"}),
        ("-d number", {}),
        ("-d JSON", {}),
        ("--data-binary JSON", {'{  "text": "a': "b"}),
    ],
)
def test_what_curl_sends_as_a_form_unasked(command, fields):
    assert recorded(f"curl {command}") == as_parts(fields)


def test_a_multipart_body_without_a_boundary_is_not_parsed():
    assert recorded("curl own type without boundary") == {"body": (b"a=1", "multipart/form-data")}


@pytest.mark.parametrize("data", [PNG, bytes(2 << 20)], ids=["small", "large"])
def test_the_bytes_of_a_file_are_kept(data):
    body = PART.replace(b"DATA", data) + END
    assert read_multipart(body, b"b") == {"a": (data, "image/png")}


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (PART + FIELD + END, BOTH),
        (PART + FIELD + b"--b--", BOTH),
        (PART + FIELD + END + b"epilogue", BOTH),
        (PART + FIELD, {"a": BOTH["a"]}),
        (b"", {}),
        (PART.replace(b"DATA\r\n", b"\r\n") + END, {"a": (b"", "image/png")}),
        (PART + FIELD.replace(b'"t"', b'"a"') + END, {"a": (b"text", "")}),
    ],
)
def test_parts_are_read_up_to_the_end_of_the_form(body, parts):
    assert read_multipart(body, b"b") == parts


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (PART.replace(b'name="a"; ', b"") + END, "name"),
        (PART.replace(b'"a"', b'""') + END, "empty name"),
        (b"preamble\r\n" + PART + END, "boundary"),
    ],
)
def test_a_broken_form_is_refused_as_torchserve_does(body, reason):
    with pytest.raises(RefusedRequest, match=reason) as refused:
        read_multipart(body, b"b")
    answer = Response.refusing(refused.value)
    assert (answer.status, answer.reached) == (500, False)
    assert answer.json()["type"] == "ErrorDataDecoderException"


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b"a=1&a=2", {"a": (b"2", "")}),
        (b"a&b=", {"a": (b"", ""), "b": (b"", "")}),
        (b"a=1=2", {"a": (b"1=2", "")}),
        (b"a=1\r\nb=2", {"a": (b"1", "")}),
        (b"", {}),
    ],
)
def test_fields_are_what_the_server_passes_on(body, parts):
    assert read_urlencoded(body) == parts


@pytest.mark.parametrize("body", [b"=1", b"&a=1", b"a=%", b"a=%zz", b"%zz=1", b"%20=1"])
def test_broken_fields_are_refused(body):
    with pytest.raises(RefusedRequest) as refused:
        read_urlencoded(body)
    assert (refused.value.status, refused.value.kind) == (500, "ErrorDataDecoderException")


def test_a_request_has_the_headers_that_torchserve_adds():
    given = Input.from_http(b"{}", "application/json; charset=utf-8", {"X-A": "b"}, explain=True)
    assert given.parts == {"body": (b"{}", "application/json")}
    assert given.headers == {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": "2",
        "X-A": "b",
        "explain": "True",
        "url_path": "",
    }
