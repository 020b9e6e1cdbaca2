"""Text is decoded by the charset in its Content-Type, or else as UTF-8."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from folders import ask
from text_models import matches, write_text_classifier

from vestal.inprocess import Input, LoadedArchive

ACCENTS = "für: naïve café"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    with LoadedArchive(write_text_classifier(tmp_path_factory.mktemp("simplenet"))) as loaded:
        yield loaded


def declared(charset, text=ACCENTS, kind="text/plain"):
    return Input.from_http(text.encode(charset), f"{kind}; charset={charset}")


@pytest.mark.parametrize(
    "sent",
    [
        declared("utf-8"),
        declared("utf-16le"),
        declared("utf-16"),
        declared("utf-16be"),
        declared("iso-8859-1"),
        declared("Windows-1252"),
        Input.from_http(ACCENTS.encode("latin-1"), 'Text/Plain; format=flowed; Charset="latin-1"'),
        Input.from_http(b"\xef\xbb\xbf" + ACCENTS.encode(), "text/plain"),
        Input.from_http(b"\xef\xbb\xbf" + ACCENTS.encode()),
        Input.from_http(b"\xff\xfe" + ACCENTS.encode("utf-16le"), "text/plain; charset=utf-16le"),
        Input.from_http(b"\xef\xbb\xbf" + json.dumps(ACCENTS).encode(), "application/json"),
        declared("latin-1", json.dumps(ACCENTS, ensure_ascii=False), "application/json"),
        declared("utf-16le", json.dumps({"text": ACCENTS}), "application/json"),
        Input.from_http(
            b"text=" + quote(ACCENTS.encode("latin-1")).encode(),
            "application/x-www-form-urlencoded; charset=latin-1",
        ),
        Input.form(any_name=(b"\xef\xbb\xbf" + ACCENTS.encode(), "text/plain")),
        Input.form(any_name=(ACCENTS.encode(), "application/octet-stream")),
    ],
)
@pytest.mark.parametrize("decode", [False, True], ids=["raw", "decoded by the server"])
def test_a_declared_charset_or_a_byte_order_mark_does_not_change_the_prediction(
    archive, sent, decode
):
    archive._decode, before = decode, archive._decode
    try:
        answer = ask(archive, sent)
    finally:
        archive._decode = before
    assert answer.status == 200, answer.body
    assert matches(answer.json(), ACCENTS)


@pytest.mark.parametrize(
    "charset", ["klingon", "hex", "utf-7", "KLINGON", "rot13", "idna", "x" * 500, "a.b"]
)
def test_an_unknown_charset_is_named(archive, charset):
    answer = ask(archive, Input.from_http(b"text", f"text/plain; charset={charset}"))
    assert answer.status == 415
    assert f"charset '{charset[:5].lower()}" in answer.json()["message"].replace("_", "-")


def test_a_charset_parameter_of_rfc_2231_is_refused(archive):
    answer = ask(archive, Input.from_http(b"text", "text/plain; charset*=klingon''utf-8"))
    assert answer.status == 415
    assert "is unknown; send UTF-8" in answer.json()["message"]


def test_bytes_outside_their_charset_are_refused(archive):
    answer = ask(archive, Input.from_http(b"odd", "text/plain; charset=utf-16le"))
    assert answer.status == 400
    assert "not utf_16_le (byte 2), the charset in its Content-Type" in answer.json()["message"]


@pytest.mark.parametrize("charset", ["utf-16le", "iso-8859-1"])
@pytest.mark.parametrize("file", ['; filename="t.txt"', ""])
@pytest.mark.parametrize("text", ["plain", ACCENTS])
def test_a_part_of_a_form_must_be_utf_8(archive, charset, file, text):
    """TorchServe does not pass on the charset of a part."""
    head = f'Content-Disposition: form-data; name="text"{file}\r\n'
    head += f"Content-Type: text/plain; charset={charset}\r\n\r\n"
    body = b"--b\r\n" + head.encode() + text.encode(charset) + b"\r\n--b--\r\n"
    answer = ask(archive, Input.from_http(body, "multipart/form-data; boundary=b"))
    if (charset, text) == ("iso-8859-1", "plain"):
        assert matches(answer.json(), text)
        return
    assert answer.status == 415
    assert "TorchServe does not pass on the charset of a part" in answer.json()["message"]
