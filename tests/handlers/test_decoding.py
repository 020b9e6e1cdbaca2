"""Image files of every format are decoded to the same pixels, or refused with the reason."""

from __future__ import annotations

import base64
import subprocess
import sys
import tracemalloc
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from imaging import bomb, encoded, seven
from PIL import Image, ImageOps

from vestal.client.encoding import encode
from vestal_handlers.errors import InputError
from vestal_handlers.images.decoding import bytes_of, read_image


def pixels(image: Image.Image) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def test_a_grey_png_is_decoded_to_its_pixels():
    assert torch.equal(read_image(encoded(seven()), "L"), pixels(seven()))


def test_mode_rgb_gives_three_channels_for_a_grey_image():
    assert torch.equal(read_image(encoded(seven()), "RGB"), pixels(seven().convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_every_lossless_format_gives_the_same_pixels(kind):
    data = encoded(seven((40, 28)), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert torch.equal(read_image(data, "L"), pixels(seven((40, 28))))


def test_a_palette_is_looked_up():
    palette = seven().convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    assert torch.equal(read_image(encoded(palette), "RGB"), pixels(palette.convert("RGB")))


def test_sixteen_bits_are_scaled_not_clipped():
    deep = Image.fromarray(np.asarray(seven()).astype(np.uint16) * 257)
    assert torch.equal(read_image(encoded(deep), "L"), pixels(seven()))


def test_one_bit_images_become_black_and_white():
    bilevel = seven().convert("1", dither=Image.Dither.NONE)
    assert torch.equal(read_image(encoded(bilevel), "L"), pixels(bilevel.convert("L")))


def test_cmyk_is_converted_to_rgb_as_pillow_converts_it():
    data = encoded(seven((64, 64)).convert("RGB").convert("CMYK"), "JPEG", quality=95)
    opened = Image.open(BytesIO(data)).convert("RGB")
    assert torch.equal(read_image(data, "RGB"), pixels(opened))
    # and that is the picture itself, but for JPEG's own loss
    difference = (read_image(data, "L").float() - pixels(seven((64, 64))).float()).abs()
    assert difference.mean() < 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_exif_rotation_is_undone(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = seven((40, 28))
    options = {"quality": 100, "lossless": True} if kind == "WEBP" else {"quality": 100}
    data = encoded(image, kind, exif=exif, **(options if kind != "PNG" else {}))
    image.getexif()[0x0112] = orientation
    upright = pixels(ImageOps.exif_transpose(image))
    got = read_image(data, "L")
    assert got.shape == upright.shape
    assert (got.float() - upright.float()).abs().max() <= (8 if kind == "JPEG" else 0)


def test_a_jpeg_equals_that_of_pillow_within_rounding():
    data = encoded(seven((300, 200)).convert("RGB"), "JPEG", quality=90)
    expected = pixels(Image.open(BytesIO(data)).convert("RGB"))
    assert (read_image(data, "RGB").float() - expected.float()).abs().max() <= 3


@pytest.mark.parametrize(
    ("data", "status", "message"),
    [
        (b"", 400, "empty (0 bytes)"),
        (b"hello, I am text", 415, "not an image"),
        (encoded(seven())[:100], 400, "PNG image, 28 x 28: cannot be decoded"),
        (encoded(seven((300, 300)), "JPEG")[:1500], 400, "JPEG image, 300 x 300: cannot"),
        (encoded(seven(), "GIF")[:60], 400, "GIF image, 28 x 28: cannot be decoded"),
        (encoded(seven())[:20], 400, "cannot be decoded"),
        (encoded(Image.new("F", (4, 4)), "TIFF"), 415, "floating-point"),
    ],
)
def test_empty_corrupt_and_other_files_are_refused(data, status, message):
    with pytest.raises(InputError) as refused:
        read_image(data, "L")
    assert refused.value.status == status
    assert message in refused.value.message
    assert ".cpp" not in refused.value.message


def test_a_decompression_bomb_is_refused_before_it_is_decoded():
    data = bomb()
    assert len(data) < 40_000
    tracemalloc.start()
    with pytest.raises(InputError) as refused:
        read_image(data, "L")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused.value.status == 413
    assert "13000 x 13000" in refused.value.message
    assert peak < 5_000_000


def test_the_pixel_limit_is_an_argument():
    with pytest.raises(InputError, match="more than 783 pixels"):
        read_image(encoded(seven()), "L", max_pixels=783)
    assert read_image(encoded(seven()), "L", max_pixels=784).shape == (1, 28, 28)


DATA = [bytes(range(256)) + bytes(extra) for extra in range(3)]  # of every padding
WRAPPINGS = {
    "plain": lambda text: text,
    "data URL": lambda text: f"data:image/png;base64,{text}",
    "data URL, percent-encoded": lambda text: f"DATA:;base64,{quote(text, safe='')}",
    "data URL with parameters": lambda text: f"data:image/png;name=a.png;base64,{text}",
    "object": lambda text: {"b64": text},
    "lines": lambda text: "\n".join(text[i : i + 60] for i in range(0, len(text), 60)),
    "lines of MIME": lambda text: "\r\n".join(text[i : i + 76] for i in range(0, len(text), 76)),
    "no padding": lambda text: text.rstrip("="),
    "URL-safe": lambda text: text.replace("+", "-").replace("/", "_"),
    "URL-safe, no padding": lambda text: text.replace("+", "-").replace("/", "_").rstrip("="),
    "URL-safe in a data URL": lambda text: "data:;base64," + text.replace("/", "_").rstrip("="),
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", WRAPPINGS)
def test_base64_is_read_in_every_usual_form(name, data):
    text = base64.b64encode(data).decode()
    assert {"+", "/"} < set(text)
    assert bytes_of(WRAPPINGS[name](text), "an image") == data


def test_a_data_url_without_base64_is_percent_encoded():
    assert bytes_of("data:image/png," + quote(DATA[1]), "an image") == DATA[1]


@pytest.mark.parametrize(
    ("payload", "status", "got"),
    [
        ([1, 2], 415, "got a list of 2"),
        (7, 415, "got 7"),
        (None, 415, "got null"),
        (True, 415, "got true"),
        ({"x": 1}, 415, "got an object"),
        ("not base64!", 400, "not base64"),
        ("AAAAA", 400, "not base64"),  # no number of bytes has 5 digits
        ("AA=A", 400, "not base64"),
        ("data:;base64,%zz", 400, "not base64"),
        ("data:;base64,\u00e9", 400, "not base64"),
    ],
)
def test_a_payload_without_bytes_is_refused_with_its_type(payload, status, got):
    with pytest.raises(InputError) as refused:
        bytes_of(payload, "an image")
    assert refused.value.status == status
    assert got in refused.value.message


MUTATED = """
import random, sys
sys.path[:0] = sys.argv[1:]
from fuzzing import mutate
from imaging import encoded, seven
from vestal_handlers.images.decoding import read_image
from vestal_handlers.errors import InputError

rng = random.Random(5)
for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
    seeds = [encoded(seven((s, s)).convert(m), kind) for s in (28, 100) for m in ("L", "RGB")]
    statuses = set()
    for _ in range(1500):
        try:
            read_image(mutate(rng, rng.choice(seeds)), "L")
            statuses.add(200)
        except InputError as error:
            statuses.add(error.status)
    print(kind, sorted(statuses))
"""


def test_no_corrupt_image_crashes_the_process():
    """Run in a child process, because torchvision's PNG decoder would crash this one."""
    here = Path(__file__).parent
    command = [sys.executable, "-c", MUTATED, here, here.parent / "e2e"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.count("400") >= 5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("image_mode", ["L", "RGB", "LA", "RGBA", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_an_image_encoded_by_the_client_is_decoded_as_its_file(kind, image_mode, mode):
    if image_mode == "I;16":
        image = Image.fromarray(np.asarray(seven((40, 28))).astype(np.uint16) * 257)
    else:
        image = seven((40, 28)).convert("RGB").convert(image_mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = BytesIO()
    try:
        image.save(file, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    except OSError:
        return  # this format has no such mode
    with Image.open(file) as opened:
        sent = encode(opened).body
    assert torch.equal(read_image(sent, mode), read_image(file.getvalue(), mode))
