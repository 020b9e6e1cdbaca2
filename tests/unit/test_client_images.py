"""Images are sent as PNG, with their pixels and their orientation."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vestal import InvalidInput
from vestal.client.encoding import encode

PNG = b"\x89PNG\r\n\x1a\n"


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
        numbers = np.arange(12).reshape(3, 4) * (5000 if mode == "I;16" else 20)
        kinds = {"I": np.int32, "F": np.float32, "I;16": np.uint16}
        return Image.fromarray(numbers.astype(kinds[mode]))
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
def test_unreadable_exif_data_is_ignored(exif: bytes) -> None:
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


def test_an_image_uses_the_fastest_compression() -> None:
    pixels = np.random.default_rng(0).integers(0, 4, (40, 40, 3), dtype=np.uint8)
    quick = io.BytesIO()
    Image.fromarray(pixels).save(quick, format="PNG", compress_level=1)
    assert encode(Image.fromarray(pixels)).body == quick.getvalue()
