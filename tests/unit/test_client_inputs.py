"""How each kind of input is sent."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from client_both import both
from PIL import Image

from vestal import ClientError, InvalidInput, ServerFailed
from vestal.client.encoding import encode, looks_like_path, may_hang, takes_long
from vestal.testing import FakeFailure, FakeServer


def test_a_path_is_a_file_whatever_its_name(tmp_path: Path) -> None:
    for name, content_type in {
        "seven.PNG": "image/png",
        "seven.jpg": "image/jpeg",
        "row.json": "application/json",
        "words.txt": "text/plain; charset=utf-8",
        "weights": "application/octet-stream",
    }.items():
        (tmp_path / name).write_bytes(b"content")
        payload = encode(tmp_path / name)
        assert (payload.body, payload.content_type) == (b"content", content_type)


def test_a_str_is_text_even_if_a_file_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("secrets.env", "seven.png", "rows.csv"):
        (tmp_path / name).write_text("password")
    texts = ["secrets.env", "seven.png", "SEVEN.JPG", "rows.csv", str(tmp_path / "seven.png")]
    for text in (*texts, "The quick brown fox", "", "what is\nin seven.png"):
        payload = encode(text)
        assert (payload.body, payload.content_type) == (text.encode(), "text/plain; charset=utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "seven.png",
        " my seven.PNG",
        "a/b.csv",
        "/etc/passwd",
        "..\\x",
        "~/x",
        "C:\\x.txt",
        "a.model",
    ],
)
def test_text_that_looks_like_a_path_is_recognized(text: str) -> None:
    assert looks_like_path(text)


@pytest.mark.parametrize(
    "text",
    ["It rains.", "pi is 3.14", "", "a\nb.png", "e.g. this", "x" * 2000 + ".png", "7", b"a.png"],
)
def test_text_that_is_not_a_path_is_recognized(text: object) -> None:
    assert not looks_like_path(text)


@pytest.mark.parametrize("value", [b"raw", bytearray(b"raw"), memoryview(b"raw")])
def test_bytes_are_sent_unchanged(value: object) -> None:
    assert encode(value).body == b"raw"
    assert encode(value).content_type == "application/octet-stream"


def test_a_file_object_is_read_from_its_position(tmp_path: Path) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(b"skip-content")
    with path.open("rb") as file:
        file.seek(5)
        payload = encode(file)
    assert (payload.body, payload.content_type) == (b"content", "image/png")
    assert encode(io.BytesIO(b"raw")).content_type == "application/octet-stream"
    assert encode(io.StringIO("text")).content_type == "text/plain; charset=utf-8"
    (tmp_path / "row.json").write_text('{"a": "ü"}', encoding="utf-8")
    with (tmp_path / "row.json").open(encoding="utf-8") as file:
        payload = encode(file)
    assert (payload.body.decode(), payload.content_type) == ('{"a": "ü"}', "application/json")


def test_an_input_that_cannot_be_sent_raises(tmp_path: Path) -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value, message in [
        (float("nan"), "JSON"),
        (np.array([np.inf]), "JSON"),
        ({"x": object()}, "it holds a object"),
        (circle, "JSON"),
        (None, "type NoneType cannot be sent: expected a path"),
        ({1, 2}, "type set cannot be sent"),
        (tmp_path, "Is a directory"),
        ("\ud800", "not valid Unicode"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            encode(value)


def test_an_open_file_that_cannot_be_read_raises(tmp_path: Path) -> None:
    with (tmp_path / "new").open("wb") as file, pytest.raises(InvalidInput, match="cannot be read"):
        encode(file)


def test_importing_vestal_imports_nothing_heavy() -> None:
    code = """
import sys, vestal
heavy = {"torch", "numpy", "PIL", "requests", "httpx", "pydantic"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
from vestal import Client
assert heavy & set(sys.modules) == {"requests"}
assert vestal.__all__ == sorted(vestal.__all__)
assert all(getattr(vestal, name) for name in vestal.__all__)
assert set(vestal.__all__) - {"UsageError", "VestalError"} <= set(vestal.client.__all__)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_inputs_that_are_slow_to_encode_are_recognized(tmp_path: Path) -> None:
    slow = [tmp_path, io.BytesIO(), Image.new("L", (1, 1)), np.zeros(3), torch.zeros(3)]
    slow += [{"a": {"b": np.zeros(3)}}, [torch.zeros(3)], ({"a": [np.zeros(3)]},)]
    assert all(takes_long(value) for value in slow)
    circle: list[Any] = []
    circle.append(circle)
    quick = ["text", "a.png", b"x", {"a": 1}, {"a": "b.png"}, [1], 3, circle]
    assert not any(takes_long(value) for value in quick)


def test_inputs_that_may_hang_are_recognized(tmp_path: Path) -> None:
    pipe, file = tmp_path / "pipe.png", tmp_path / "file.png"
    os.mkfifo(pipe)
    file.touch()
    with file.open("rb") as opened, socket.socket() as sock, sock.makefile("rb") as received:
        assert all(may_hang(value) for value in [pipe, opened, received])
    still = [file, str(pipe), "text", b"x", io.BytesIO(), io.StringIO(), Image.new("L", (1, 1)), 3]
    assert not any(may_hang(value) for value in still)


@both
def test_no_method_reads_a_str_as_a_file(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seven.png").write_bytes(b"secret")
    with FakeServer() as server, kind(server.url) as client:
        server.answer("m", {"label": "7"})
        client.predict("m", "seven.png")
        client.explain("m", "seven.png")
        client.predict_many("m", ["seven.png", Path("seven.png")], concurrency=1)
        sent = [(one.body, one.headers["content-type"]) for one in server.requests]
    text = (b"seven.png", "text/plain; charset=utf-8")
    assert sent == [text, text, text, (b"secret", "image/png")]


@both
def test_the_hint_for_a_rejected_path_like_text_names_path(kind: Any) -> None:
    hint = "The input was sent as text. To send a file, pass pathlib.Path('seven.png')"
    with FakeServer() as server, kind(server.url) as client:
        server.answer("m", {"label": "7"})

        def hint_for(value: Any, status: int = 415) -> str | None:
            server.refuse("m", status, "not an image")
            with pytest.raises(ClientError) as caught:
                client.predict("m", value)
            return caught.value.hint

        assert [hint_for("seven.png", status) for status in (400, 415, 422)] == [hint] * 3
        assert hint_for("x" * 500 + ".png") == hint.replace("seven.png", "x" * 100 + "...")
        for value, status in [("It rains.", 415), (b"seven.png", 415), ("seven.png", 413)]:
            assert "pathlib" not in str(hint_for(value, status))
        server.fail("m", FakeFailure.HANDLER_RAISED)  # as a handler of others fails
        with pytest.raises(ServerFailed, match=r"pathlib\.Path\('seven\.png'\)"):
            client.predict("m", "seven.png")
