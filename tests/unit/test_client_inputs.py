"""Every kind of input reaches the server as it should."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from client_both import both
from client_wire import HTTPServer, http
from PIL import Image

from vestal import Client, InvalidInput
from vestal.client.encoding import encode, may_hang, takes_long

PNG = b"\x89PNG\r\n\x1a\n"


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


def test_a_str_with_an_images_suffix_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my seven.png").write_bytes(b"content")
    assert encode("my seven.png").body == b"content"
    with pytest.raises(InvalidInput, match="No such file") as caught:
        encode("eight.png")
    assert str(tmp_path / "eight.png") in str(caught.value)
    assert "text goes as text.encode()" in str(caught.value)


def test_any_other_str_is_text_even_where_a_file_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secrets.env").write_text("password")
    for text in ("secrets.env", "The quick brown fox", "", "what is\nin seven.png"):
        payload = encode(text)
        assert (payload.body, payload.content_type) == (text.encode(), "text/plain; charset=utf-8")


@pytest.mark.parametrize("value", [b"raw", bytearray(b"raw"), memoryview(b"raw")])
def test_bytes_go_as_they_are(value: object) -> None:
    assert encode(value).body == b"raw"
    assert encode(value).content_type == "application/octet-stream"


def test_a_file_object_is_read_from_where_it_stands(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr"])
def test_an_image_goes_as_png(mode: str) -> None:
    payload = encode(Image.new(mode, (3, 2)))
    assert payload.content_type == "image/png"
    with Image.open(io.BytesIO(payload.body)) as image:
        assert image.format == "PNG"
        assert image.size == (3, 2)


def test_an_image_that_png_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidInput, match="cannot be written as PNG"):
        encode(Image.new("F", (3, 2)))


@pytest.mark.parametrize(
    "value",
    [
        np.array([[1, 2], [3, 4]], dtype=np.int64),
        np.array([[1, 2], [3, 4]], dtype=np.float32),
        torch.tensor([[1, 2], [3, 4]]),
        torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        torch.tensor([[1, 2], [3, 4]], dtype=torch.bfloat16),
    ],
)
def test_arrays_and_tensors_go_as_nested_lists(value: Any) -> None:
    payload = encode(value)
    assert payload.content_type == "application/json"
    assert json.loads(payload.body) == {"data": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"instances": [1, 2.5]}, '{"instances":[1,2.5]}'),
        ([1, [2]], "[1,[2]]"),
        ((1, 2), "[1,2]"),
        (3, "3"),
        ({"x": np.arange(2), "y": [torch.zeros(1)]}, '{"x":[0,1],"y":[[0.0]]}'),
        (np.float32(0.5), '{"data":0.5}'),
    ],
)
def test_dicts_lists_and_numbers_go_as_json(value: object, text: str) -> None:
    assert encode(value).body == text.encode()


def test_what_cannot_be_sent_is_said(tmp_path: Path) -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value, says in [
        (float("nan"), "JSON"),
        (np.array([np.inf]), "JSON"),
        ({"x": object()}, "it holds a object"),
        (circle, "JSON"),
        (None, "type NoneType cannot be sent: expected a path"),
        ({1, 2}, "type set cannot be sent"),
        (tmp_path, "Is a directory"),
        ("\ud800", "no Unicode text"),
    ]:
        with pytest.raises(InvalidInput, match=says):
            encode(value)


def test_an_open_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3), (5, 4, 4)])
def test_an_array_that_is_an_image_goes_as_png(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    payload = encode(pixels)
    assert payload.content_type == "image/png"
    with Image.open(io.BytesIO(payload.body)) as image:
        image.load()
        assert np.array_equal(np.asarray(image).reshape(shape), pixels)
    strided = encode(pixels[::-1, ::2])
    with Image.open(io.BytesIO(strided.body)) as image:
        assert np.array_equal(np.asarray(image).reshape(5, 2, *shape[2:]), pixels[::-1, ::2])


def test_a_tensor_that_is_an_image_goes_as_png() -> None:
    pixels = torch.randint(0, 256, (3, 5, 4), dtype=torch.uint8)
    with Image.open(io.BytesIO(encode(pixels).body)) as image:
        assert np.array_equal(np.asarray(image), pixels.permute(1, 2, 0).numpy())
    with Image.open(io.BytesIO(encode(pixels[0]).body)) as image:
        assert np.array_equal(np.asarray(image), pixels[0].numpy())


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(4, np.uint8),
        np.zeros((2, 5, 4, 3), np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((5, 4, 2), np.uint8),
        np.zeros((5, 4, 3), np.float32),
        torch.zeros(5, 4, 3, dtype=torch.uint8),
    ],
)
def test_any_other_array_goes_as_json(value: Any) -> None:
    assert json.loads(encode(value).body) == {"data": value.tolist()}


def test_a_pandas_row_goes_by_name_and_a_table_as_instances() -> None:
    table = pd.DataFrame({"bmi": [0.5, 1.5], "sex": [1, 2]})
    assert json.loads(encode(table.iloc[0]).body) == {"bmi": 0.5, "sex": 1}
    instances = [{"bmi": 0.5, "sex": 1}, {"bmi": 1.5, "sex": 2}]
    assert json.loads(encode(table).body) == {"instances": instances}
    when = pd.Series({"at": pd.Timestamp("2026-01-02"), "n": np.int64(3)})
    assert json.loads(encode(when).body) == {"at": "2026-01-02T00:00:00", "n": 3}
    with pytest.raises(InvalidInput, match="JSON"):
        encode(pd.Series({"bmi": float("nan")}))
    with pytest.raises(InvalidInput, match="it holds a pandas"):
        encode(pd.Index([1]))


def test_bytes_inside_json_go_as_base64() -> None:
    assert encode({"data": b"raw", "target": "7"}).body == b'{"data":"cmF3","target":"7"}'


def test_what_takes_long_is_known(tmp_path: Path) -> None:
    slow = [tmp_path, "a.png", io.BytesIO(), Image.new("L", (1, 1)), np.zeros(3), torch.zeros(3)]
    slow += [{"a": {"b": np.zeros(3)}}, [torch.zeros(3)], ({"a": [np.zeros(3)]},)]
    assert all(takes_long(value) for value in slow)
    circle: list[Any] = []
    circle.append(circle)
    quick = ["text", b"x", {"a": 1}, {"a": "b.png"}, [1], 3, circle]
    assert not any(takes_long(value) for value in quick)


def test_what_may_hang_is_known(tmp_path: Path) -> None:
    pipe, file = tmp_path / "pipe.png", tmp_path / "file.png"
    os.mkfifo(pipe)
    file.touch()
    with file.open("rb") as opened, socket.socket() as sock, sock.makefile("rb") as received:
        assert all(may_hang(value) for value in [pipe, str(pipe), opened, received])
    still = [file, str(file), "text", b"x", io.BytesIO(), io.StringIO(), Image.new("L", (1, 1)), 3]
    assert not any(may_hang(value) for value in still)


def test_an_image_is_compressed_the_quickest_way() -> None:
    pixels = np.random.default_rng(0).integers(0, 4, (40, 40, 3), dtype=np.uint8)
    quick = io.BytesIO()
    Image.fromarray(pixels).save(quick, format="PNG", compress_level=1)
    assert encode(Image.fromarray(pixels)).body == quick.getvalue()


@both
@pytest.mark.parametrize("nest", [lambda each: {"data": each}, lambda each: [{"a": [each]}]])
def test_a_path_inside_json_is_read(kind: type[Client], nest: Any, tmp_path: Path) -> None:
    file = tmp_path / "seven.png"
    file.write_bytes(b"\x89PNG...")
    with HTTPServer(lambda _: http(200, {})) as server, kind(server.url) as client:
        client.predict("m", nest(file))
        client.predict("m", nest(b"\x89PNG..."))
    first, second = server.received
    assert first.body == second.body
    assert b"seven.png" not in first.body


@both
def test_a_path_inside_json_that_cannot_be_read_is_named(
    kind: type[Client], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with kind("http://127.0.0.1:1") as client:
        with pytest.raises(InvalidInput, match=r"missing\.png cannot be read: No such file"):
            client.predict("m", {"data": tmp_path / "missing.png"})
        for other in (tmp_path, pipe):  # a pipe would be waited for
            with pytest.raises(InvalidInput, match="is not a file"):
                client.predict("m", [0] * 100 + [other])
