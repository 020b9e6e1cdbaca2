"""Transparent pixels are shown on a background, in every format with transparency."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
import torch
from imaging import chunk, encoded, png, seven
from PIL import Image

from vestal_handlers.errors import InputError
from vestal_handlers.images.decoding import ImageTransform, read_image
from vestal_handlers.images.flattening import WHITE, colour_of, flatten

BLACK, RED = (0, 0, 0), (255, 0, 0)
INK = np.asarray(seven()) > 0  # what is drawn; the rest is transparent


def drawn(mode, opacity=255):
    """Opaque black pixels among transparent black ones."""
    alpha = np.where(INK, opacity, 0).astype(np.uint8)
    channels = {"LA": 1, "RGBA": 3}[mode]
    return Image.fromarray(np.dstack([np.zeros_like(alpha)] * channels + [alpha]), mode)


def palette(transparency):
    image = Image.fromarray(np.where(INK, 1, 0).astype(np.uint8))
    image.putpalette([0, 0, 0] * 2)
    return encoded(image, transparency=transparency)


def keyed(depth, colour, ink, clear):
    """A PNG in which one grey value or colour is transparent."""
    pixels = np.where(INK[..., None], ink, clear)
    values = struct.pack(f"!{len(clear)}H", *clear)
    return png(pixels, depth, colour, chunk(b"tRNS", values))


def of_depth_16(colour):
    image = np.asarray(drawn("LA" if colour == 4 else "RGBA")).astype(np.uint16) * 257
    return png(image, 16, colour)


def premultiplied():
    """A TIFF whose extra channel is associated alpha."""
    data = bytearray(encoded(drawn("RGBA"), "TIFF"))
    (start,) = struct.unpack_from("<I", data, 4)
    for place in range(start + 2, len(data), 12):
        if struct.unpack_from("<H", data, place) == (338,):
            struct.pack_into("<H", data, place + 8, 1)
            return bytes(data)
    raise AssertionError


def bitmap():
    """A BMP whose header has a mask for alpha; without one, the fourth byte is unused."""
    pixels = np.asarray(drawn("RGBA"))[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII4I", 108, 28, 28, 1, 32, 3, len(pixels), 0, 0, 0, 0, *masks)
    info = info.ljust(108, b"\0")
    start = 14 + len(info)
    return struct.pack("<2sIII", b"BM", start + len(pixels), 0, start) + info + pixels


FILES = {
    "PNG RGBA": lambda: encoded(drawn("RGBA")),
    "PNG LA": lambda: encoded(drawn("LA")),
    "PNG palette, an alpha for each colour": lambda: palette(b"\0\xff"),
    "PNG palette, one transparent index": lambda: palette(0),
    "PNG grey of 1 bit": lambda: keyed(1, 0, (0,), (1,)),
    "PNG grey of 2 bits": lambda: keyed(2, 0, (0,), (3,)),
    "PNG grey of 4 bits": lambda: keyed(4, 0, (0,), (9,)),
    "PNG grey of 8 bits": lambda: keyed(8, 0, (0,), (200,)),
    "PNG grey of 16 bits": lambda: keyed(16, 0, (0,), (51400,)),
    "PNG colour of 8 bits": lambda: keyed(8, 2, (0, 0, 0), (1, 2, 200)),
    "PNG colour of 16 bits": lambda: keyed(16, 2, (0, 0, 0), (256, 512, 51400)),
    "PNG LA of 16 bits": lambda: of_depth_16(4),
    "PNG RGBA of 16 bits": lambda: of_depth_16(6),
    "WebP": lambda: encoded(drawn("RGBA"), "WEBP", lossless=True, exact=True),
    "AVIF": lambda: encoded(drawn("RGBA"), "AVIF", quality=100),
    "GIF": lambda: encoded(drawn("RGBA"), "GIF"),
    "TIFF RGBA": lambda: encoded(drawn("RGBA"), "TIFF"),
    "TIFF RGBA, compressed": lambda: encoded(drawn("RGBA"), "TIFF", compression="tiff_lzw"),
    "TIFF RGBA, premultiplied": premultiplied,
    "TIFF LA": lambda: encoded(drawn("LA"), "TIFF"),
    "JPEG 2000 RGBA": lambda: encoded(drawn("RGBA"), "JPEG2000"),
    "JPEG 2000 LA": lambda: encoded(drawn("LA"), "JPEG2000"),
    "BMP": bitmap,
}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", FILES)
def test_transparent_pixels_are_shown_on_white(name, mode):
    expected = torch.from_numpy(np.where(INK, 0, 255).astype(np.uint8))
    assert (read_image(FILES[name](), mode) == expected).all()


@pytest.mark.parametrize("name", FILES)
def test_the_background_is_an_argument(name):
    assert (read_image(FILES[name](), "RGB", background=BLACK) == 0).all()
    red = read_image(FILES[name](), "RGB", background=RED)
    assert (red[:, ~torch.from_numpy(INK)] == torch.tensor(RED)[:, None]).all()


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_half_transparent_ink_is_grey(mode):
    image = read_image(encoded(drawn(mode, 128)), "L")
    assert set(image[0][torch.from_numpy(INK)].tolist()) == {127}


def test_nested_lists_of_four_channels_are_composited_like_a_png():
    image = drawn("RGBA", 90)
    for background in (WHITE, BLACK, RED):
        listed = ImageTransform("RGB", ()).decode(np.asarray(image).tolist(), background=background)
        assert torch.equal(listed, read_image(encoded(image), "RGB", background=background))


def test_a_palette_with_an_alpha_channel_is_composited():
    """Pillow reads such a TIFF in mode PA."""
    image = drawn("RGBA").convert("PA")
    assert (np.asarray(flatten(image, "L"))[~INK] == 255).all()


def test_opaque_images_equal_those_without_alpha():
    image = seven()
    image.putalpha(255)
    for background in (WHITE, BLACK):
        decoded = read_image(encoded(image), "L", background=background)
        assert torch.equal(decoded[0], torch.from_numpy(np.array(seven())))


def test_a_transparent_value_outside_the_range_is_ignored():
    grey = png(np.asarray(seven()), 8, 0, chunk(b"tRNS", struct.pack("!H", 256)))
    assert torch.equal(read_image(grey, "L"), read_image(encoded(seven()), "L"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("white", WHITE), ("Black", BLACK), ("#f00", RED), ("rgb(255, 0, 0)", RED)],
)
def test_a_colour_is_named_as_in_css(name, expected):
    assert colour_of(name) == expected


@pytest.mark.parametrize("name", ["whit", "", "#ff000080", "transparent", "#12345"])
def test_a_colour_that_is_not_opaque_is_refused(name):
    with pytest.raises(ValueError, match="not an opaque colour"):
        colour_of(name)


# --- Depths ---------------------------------------------------------------------------------

GREY = np.asarray(seven()).astype(np.int64)


def tiff(array, **tags):
    return encoded(Image.fromarray(array), "TIFF", tiffinfo=tags)


def twelve_bits():
    """A TIFF of 12 bits per pixel, two pixels in three bytes."""
    pairs = (GREY * 4095 // 255).reshape(-1, 2)
    high, low = pairs[:, 0], pairs[:, 1]
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=1)
    entries = [(256, 28), (257, 28), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 28)]
    data = packed.astype(np.uint8).tobytes()
    entries.append((279, len(data)))
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    directory = struct.pack("<H", len(entries)) + fields + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory


def white_is_zero():
    image = Image.fromarray((65535 - GREY * 257).astype(np.uint16))
    return encoded(image, "TIFF", tiffinfo={262: 0})


DEPTHS = {
    "PNG of 16 bits": lambda: png(GREY * 257, 16, 0),
    "PNG of 16 bits, colour": lambda: png(np.dstack([GREY * 257] * 3), 16, 2),
    "TIFF of 16 bits": lambda: tiff((GREY * 257).astype(np.uint16)),
    "TIFF of 12 bits": twelve_bits,
    "TIFF of 16 bits, white is zero": white_is_zero,
    "PGM of 16 bits": lambda: b"P5 28 28 65535\n" + (GREY * 257).astype(">u2").tobytes(),
    "PGM of 10 bits": lambda: b"P5 28 28 1020\n" + (GREY * 4).astype(">u2").tobytes(),
    "JPEG 2000 of 16 bits": lambda: encoded(
        Image.fromarray((GREY * 257).astype(np.uint16)), "JPEG2000"
    ),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_pixels_are_scaled_by_the_range_of_their_format(name):
    assert torch.equal(read_image(DEPTHS[name](), "L")[0].long(), torch.from_numpy(GREY))


@pytest.mark.parametrize(
    "data",
    [
        tiff(GREY.astype(np.int32)),
        tiff((GREY / 255).astype(np.float32)),
        encoded(Image.fromarray(GREY.astype(np.uint16)), "TIFF", tiffinfo={339: 2}),
        b"Pf 2 1 -1.0\n" + struct.pack("<2f", 0, 1),
    ],
    ids=["int32", "float", "int16", "PFM"],
)
def test_pixels_without_a_known_range_are_refused(data):
    with pytest.raises(InputError) as refused:
        read_image(data, "L")
    assert refused.value.status == 415
    assert "range" in refused.value.message


def test_unsigned_32_bits_are_refused():
    data = tiff(GREY.astype(np.int32)).replace(
        struct.pack("<HHII", 339, 3, 1, 2), struct.pack("<HHII", 339, 3, 1, 1)
    )
    assert Image.open(BytesIO(data)).mode == "I"
    with pytest.raises(InputError, match="32-bit integer"):
        read_image(data, "L")
