"""Forms as TorchServe's frontend takes them apart: every expectation is a running server's."""

from __future__ import annotations

import pytest

from vestal.inprocess.forms import boundary_of, read_multipart, read_urlencoded
from vestal.inprocess.messages import Answer, Input, RefusedRequest

PART = (
    b'--b\r\nContent-Disposition: form-data; name="a"; filename="x.png"\r\n'
    b"Content-Type: image/png\r\n\r\nDATA\r\n"
)
FIELD = b'--b\r\nContent-Disposition: form-data; name="t"\r\n\r\ntext\r\n'
END = b"--b--\r\n"
BOTH = {"a": (b"DATA", "image/png"), "t": (b"text", "")}


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=b", "b"),
        ('multipart/form-data; boundary="b c"', "b c"),
        ("multipart/form-data; charset=utf-8; boundary=b", "b"),
        ("multipart/form-data; boundary=b; charset=utf-8", "b"),
        ("multipart/form-data", None),
        ("Multipart/Form-Data; boundary=b", None),
        ("multipart/mixed; boundary=b", None),
        ("", None),
    ],
)
def test_a_boundary_is_found_where_netty_looks(content_type, boundary):
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (PART + FIELD + END, BOTH),
        ((PART + FIELD + END).replace(b"\r\n", b"\n"), BOTH),
        (PART + FIELD + b"--b--", BOTH),
        (PART + FIELD + END + b"epilogue", BOTH),
        (PART + FIELD + b"--b", BOTH),
        (PART + FIELD, {"a": BOTH["a"]}),
        (PART[:-2] + b"--b--", {}),
        (b"preamble\r\n" + PART + END, {}),
        (b"", {}),
        (PART.replace(b"DATA", b"DATA--b") + END, {"a": (b"DATA--b", "image/png")}),
        (PART.replace(b"DATA\r\n", b"") + END, {"a": (b"", "image/png")}),
        (PART + FIELD.replace(b'"t"', b'"a"') + END, {"a": (b"text", "")}),
        (PART.replace(b"image/png", b"image/png; x=1") + END, {"a": (b"DATA", "x=1")}),
        (PART.replace(b'"a"', b'"a;b"') + END, {"a b": (b"DATA", "image/png")}),
        (FIELD.replace(b'"t"\r\n', b'"t"\r\nContent-Type: a/b\r\n') + END, {"t": (b"text", "")}),
    ],
)
def test_parts_are_what_the_server_hands_over(body, parts):
    assert read_multipart(body, "b") == parts


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (PART.replace(b'name="a"; ', b""), "ErrorDataDecoderException", "no name"),
        (PART.replace(b'"a"', b'""'), "ErrorDataDecoderException", "empty name"),
        (PART.replace(b'; filename="x', b'; filename"x'), "ArrayIndexOutOfBounds", "no value"),
        (PART.replace(b"image/png", b"a/b; charset=nope"), "ErrorData", "no charset 'nope'"),
        (PART.replace(b"Type: image/png", b"Transfer-Encoding: base64"), "ErrorData", "base64"),
    ],
)
def test_a_form_that_breaks_netty_is_refused_with_its_words(body, kind, reason):
    with pytest.raises(RefusedRequest, match=reason) as refused:
        read_multipart(body + END, "b")
    assert refused.value.kind.startswith(kind)
    answer = Answer.of(refused.value)
    assert (answer.status, answer.reached) == (500, False)
    assert answer.json()["type"] == refused.value.kind


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        (b"a=1&b=2", {"a": (b"1", ""), "b": (b"2", "")}),
        (b"a=caf%C3%A9&b=c+d", {"a": ("café".encode(), ""), "b": (b"c d", "")}),
        (b"a=1&a=2", {"a": (b"2", "")}),
        (b"a&b=", {"a": (b"", ""), "b": (b"", "")}),
        (b"a=1=2", {"a": (b"1=2", "")}),
        (b"a=1\r\nb=2", {"a": (b"1", "")}),
        (b"1.5", {}),
        (b"", {}),
    ],
)
def test_fields_are_what_the_server_hands_over(body, parts):
    assert read_urlencoded(body) == parts


@pytest.mark.parametrize("body", [b"=1", b"&a=1", b"a=%", b"a=%zz", b"%zz=1", b"a=1\rb", b"%20=1"])
def test_fields_that_break_netty_are_refused(body):
    with pytest.raises(RefusedRequest) as refused:
        read_urlencoded(body)
    assert (refused.value.status, refused.value.kind) == (500, "ErrorDataDecoderException")


def test_a_request_comes_with_torchserves_own_headers():
    given = Input.from_http(b"{}", "application/json; charset=utf-8", {"X-A": "b"}, explain=True)
    assert given.parts == {"body": (b"{}", "application/json")}
    assert given.headers == {
        "Content-Type": "application/json; charset=utf-8",
        "Content-Length": "2",
        "X-A": "b",
        "explain": "True",
        "url_path": "",
    }


def test_an_empty_boundary_is_refused():
    with pytest.raises(RefusedRequest, match="empty") as refused:
        boundary_of("multipart/form-data; boundary=")
    assert refused.value.kind == "StringIndexOutOfBoundsException"
