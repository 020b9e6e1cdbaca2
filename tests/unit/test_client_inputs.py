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
from PIL import Image, ImageOps

from vestal import Client, ClientError, InvalidInput, ServerFailed
from vestal.client.bulk import BulkJob
from vestal.client.encoding import encode, looks_like_path, may_hang, takes_long
from vestal.testing import FakeFailure, FakeServer

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


def test_a_str_is_text_even_where_a_file_has_that_name(
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
def test_a_text_that_looks_like_a_path_is_known(text: str) -> None:
    assert looks_like_path(text)


@pytest.mark.parametrize(
    "text",
    ["It rains.", "pi is 3.14", "", "a\nb.png", "e.g. this", "x" * 2000 + ".png", "7", b"a.png"],
)
def test_a_text_that_is_no_path_is_known(text: object) -> None:
    assert not looks_like_path(text)


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
def test_an_image_is_sent_as_png(mode: str) -> None:
    payload = encode(Image.new(mode, (3, 2)))
    assert payload.content_type == "image/png"
    with Image.open(io.BytesIO(payload.body)) as image:
        assert image.format == "PNG"
        assert image.size == (3, 2)


def gradient(mode: str) -> Image.Image:
    """Twelve pixels that differ in every band."""
    if mode in ("I", "F", "I;16"):
        values = np.arange(12).reshape(3, 4) * (5000 if mode == "I;16" else 20)
        kinds = {"I": np.int32, "F": np.float32, "I;16": np.uint16}
        return Image.fromarray(values.astype(kinds[mode]))
    bands = {"P": "RGB", "PA": "LA", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB", "1": "L"}.get(
        mode, mode
    )
    count = len(Image.new(bands, (1, 1)).getbands())
    values = (np.arange(12 * count).reshape(3, 4, count) * 21 % 256).astype(np.uint8)
    image = Image.merge(bands, [Image.fromarray(values[..., band]) for band in range(count)])
    return image.convert(mode) if image.mode != mode else image


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "I", "F"],
)
def test_an_image_keeps_its_pixels(mode: str) -> None:
    original = gradient(mode)
    with Image.open(io.BytesIO(encode(original).body)) as image:
        kept = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F"}
        assert image.mode == mode or mode not in kept
        if mode in ("I;16", "I", "F"):
            assert np.array_equal(np.asarray(image), np.asarray(original))
        else:
            assert image.convert("RGBA").tobytes() == original.convert("RGBA").tobytes()
    assert original.mode == mode  # the caller's own image is not changed


def test_transparency_of_a_palette_and_of_a_colour_is_kept() -> None:
    palette = gradient("P")
    palette.info["transparency"] = palette.getpixel((0, 0))
    colour = gradient("RGB")
    colour.info["transparency"] = colour.getpixel((0, 0))
    for image in (palette, colour):
        with Image.open(io.BytesIO(encode(image).body)) as sent:
            alpha = sent.convert("RGBA").getchannel("A")
        assert alpha.getpixel((0, 0)) == 0
        assert alpha.getpixel((1, 0)) == 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_keeps_its_orientation(kind: str, orientation: int) -> None:
    corner = Image.new("RGB", (16, 8))
    corner.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    corner.save(file, format=kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        for given in (image, image.copy(), image.convert("L").resize((32, 16))):
            with Image.open(io.BytesIO(encode(given).body)) as sent:
                seen = ImageOps.exif_transpose(sent).convert("RGB").resize(upright.size)
            difference = np.asarray(seen).astype(int) - np.asarray(upright)
            assert abs(difference).mean() < 20


@pytest.mark.parametrize("exif", [b"garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff"])
def test_exif_data_that_cannot_be_read_count_as_none(exif: bytes) -> None:
    image = gradient("RGB")
    image.info["exif"] = exif
    with Image.open(io.BytesIO(encode(image).body)) as sent:
        assert sent.tobytes() == image.tobytes()
        assert not sent.getexif()


def test_an_image_that_cannot_be_decoded_is_refused() -> None:
    file = io.BytesIO()
    gradient("RGB").resize((200, 200)).save(file, format="PNG", compress_level=0)
    with Image.open(io.BytesIO(file.getvalue()[:500])) as image, pytest.raises(InvalidInput):
        encode(image)


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


def test_an_input_that_cannot_be_sent_raises(tmp_path: Path) -> None:
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
        ("\ud800", "not valid Unicode"),
    ]:
        with pytest.raises(InvalidInput, match=says):
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


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (5, 4, 3), (5, 4, 4)])
def test_an_array_that_is_an_image_is_sent_as_png(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    payload = encode(pixels)
    assert payload.content_type == "image/png"
    with Image.open(io.BytesIO(payload.body)) as image:
        image.load()
        assert np.array_equal(np.asarray(image).reshape(shape), pixels)
    strided = encode(pixels[::-1, ::2])
    with Image.open(io.BytesIO(strided.body)) as image:
        assert np.array_equal(np.asarray(image).reshape(5, 2, *shape[2:]), pixels[::-1, ::2])


def test_a_tensor_that_is_an_image_is_sent_as_png() -> None:
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
        np.ma.masked_array(np.zeros((2, 2), np.uint8), [[0, 1], [0, 0]]),
        torch.zeros(5, 4, 3, dtype=torch.uint8),
    ],
)
def test_any_other_array_is_sent_as_json(value: Any) -> None:
    assert json.loads(encode(value).body) == {"data": value.tolist()}


def test_a_pandas_row_is_sent_by_name_and_a_table_as_instances() -> None:
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


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (pd.DataFrame([[1, 2, 3]], columns=["bmi", "bp", "bmi"]), r"several columns .*\(bmi\)"),
        (pd.DataFrame([[1, 2]], columns=[1, "1"]), r"several columns .*\(1\)"),
        (pd.Series([1, 2], index=["bmi", "bmi"]), r"several index labels .*\(bmi\)"),
        (pd.Series([1, 2], index=[1, "1"]), r"several index labels .*\(1\)"),
        (
            pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")])),
            "join",
        ),
        (
            pd.Series([1], index=pd.MultiIndex.from_tuples([("a", "b")])),
            r"\('a', 'b'\) .*is a tuple",
        ),
        ({"row": pd.DataFrame([[1, 2]], columns=["a", "a"])}, r"several columns .*\(a\)"),
        ({1: "a", "1": "b"}, r"keys 1 and '1' are both '1'"),
        ([{"x": ({True: 1, "true": 2},)}], r"keys True and 'true' are both 'true'"),
        ({None: 1, "null": 2}, r"keys None and 'null'"),
        ({1.5: 1, "1.5": 2}, r"keys 1.5 and '1.5'"),
        (pd.Series({"at": pd.NaT}), "it holds a pandas"),
    ],
)
def test_a_value_that_json_would_drop_is_refused_by_name(value: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        encode(value)


def test_the_rows_of_a_table_with_two_columns_of_one_name_are_refused() -> None:
    table = pd.DataFrame([[1, 2]], columns=["bmi", "bmi"])
    with pytest.raises(InvalidInput, match=r"several columns .*\(bmi\)"):
        BulkJob(table, 8, None)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (pd.DataFrame({"bmi": [1, 2], "bp": [1, float("nan")]}), r"instances\[1\]\['bp'\] is nan"),
        (pd.Series({"bmi": float("inf")}), r"\['bmi'\] is inf"),
        ({"data": np.array([[1, np.nan]])}, r"\['data'\]\[0\]\[1\] is nan"),
        (float("nan"), "the value is nan"),
    ],
)
def test_a_number_that_json_has_not_is_named_by_its_place(value: Any, place: str) -> None:
    with pytest.raises(InvalidInput, match=f"{place}; JSON has neither NaN nor infinity"):
        encode(value)


def test_keys_that_are_no_strings_are_sent_where_they_stay_apart() -> None:
    assert json.loads(encode({1: "a", "2": {None: "b"}}).body) == {"1": "a", "2": {"null": "b"}}
    assert json.loads(encode(pd.Series([1.5, 2.5])).body) == {"0": 1.5, "1": 2.5}


def test_bytes_inside_json_go_as_base64() -> None:
    assert encode({"data": b"raw", "target": "7"}).body == b'{"data":"cmF3","target":"7"}'


def test_what_takes_long_is_known(tmp_path: Path) -> None:
    slow = [tmp_path, io.BytesIO(), Image.new("L", (1, 1)), np.zeros(3), torch.zeros(3)]
    slow += [{"a": {"b": np.zeros(3)}}, [torch.zeros(3)], ({"a": [np.zeros(3)]},)]
    assert all(takes_long(value) for value in slow)
    circle: list[Any] = []
    circle.append(circle)
    quick = ["text", "a.png", b"x", {"a": 1}, {"a": "b.png"}, [1], 3, circle]
    assert not any(takes_long(value) for value in quick)


def test_what_may_hang_is_known(tmp_path: Path) -> None:
    pipe, file = tmp_path / "pipe.png", tmp_path / "file.png"
    os.mkfifo(pipe)
    file.touch()
    with file.open("rb") as opened, socket.socket() as sock, sock.makefile("rb") as received:
        assert all(may_hang(value) for value in [pipe, opened, received])
    still = [file, str(pipe), "text", b"x", io.BytesIO(), io.StringIO(), Image.new("L", (1, 1)), 3]
    assert not any(may_hang(value) for value in still)


def test_an_image_is_compressed_the_quickest_way() -> None:
    pixels = np.random.default_rng(0).integers(0, 4, (40, 40, 3), dtype=np.uint8)
    quick = io.BytesIO()
    Image.fromarray(pixels).save(quick, format="PNG", compress_level=1)
    assert encode(Image.fromarray(pixels)).body == quick.getvalue()


@both
def test_a_text_is_never_a_file_to_any_method(
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
def test_where_a_text_that_looks_like_a_path_is_refused_the_hint_names_path(kind: Any) -> None:
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
