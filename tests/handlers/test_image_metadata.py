"""Unreadable metadata is ignored in every format, and the orientation is still found."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
import torch
from imaging import chunk, encoded, seven

from vestal_handlers.errors import InputError
from vestal_handlers.images.decoding import read_image

CASES = Path(__file__).parents[3] / "shared" / "cases"
PICTURE = seven((40, 28)).convert("RGB")
PNG, JPEG, GIF = (encoded(PICTURE, kind) for kind in ("PNG", "JPEG", "GIF"))
WEBP = encoded(PICTURE, "WEBP", lossless=True)
BOMB = zlib.compress(bytes(2 << 20))
ORIENTED = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 6) + bytes(4)
RATIONAL = (
    b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 5, 1, 26) + bytes(4)
    + struct.pack("<II", 6, 1)
)  # fmt: skip
HEX = b"Raw profile type exif\0"


def profile(exif):
    """EXIF in a text chunk of a PNG, as ImageMagick writes it."""
    return b"\nexif\n%8d\n" % len(exif) + exif.hex().encode()


def with_chunk(name, body, *, late=False, broken=False):
    made = chunk(name, body)
    made = made[:-1] + bytes([made[-1] ^ broken])
    at = len(PNG) - 12 if late else 33
    return PNG[:at] + made + PNG[at:]


def with_segment(marker, body, after=2):
    made = bytes([0xFF, marker]) + struct.pack("!H", len(body) + 2) + body
    return JPEG[:after] + made + JPEG[after:]


def with_riff(**chunks):
    """The WebP with more chunks, whose sizes may be wrong."""
    flags = sum({"ICCP": 0x20, "EXIF": 0x08, "XMP": 0x04}[name] for name in chunks)
    (head,) = [b"VP8X" + struct.pack("<IIHBHB", 10, flags, 39, 0, 27, 0)]
    icc = b"".join(riff(b"ICCP", body) for name, body in chunks.items() if name == "ICCP")
    rest = b"".join(riff(f"{n:4}".encode(), body) for n, body in chunks.items() if n != "ICCP")
    content = b"WEBP" + head + icc + WEBP[12:] + rest
    return b"RIFF" + struct.pack("<I", len(content)) + content


def riff(name, body, size=None):
    if isinstance(body, tuple):
        body, size = body
    return name + struct.pack("<I", size or len(body)) + body + bytes(len(body) % 2)


def with_block(block):
    at = 13 + (3 << ((GIF[10] & 7) + 1))
    return GIF[:at] + block + GIF[at:]


def tiff(tag, kind, count, value, **options):
    """A TIFF with a damaged entry for a tag, by default in place of the software's name."""
    data = bytearray(encoded(PICTURE, "TIFF", software="abc", description="x" * 9, **options))
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, at)[0] in (tag, 305):
            struct.pack_into("<HHII", data, at, tag, kind, count, value)
            return bytes(data)
    raise AssertionError


BROKEN = {
    "PNG: colour profile of 2 MiB": (PNG, with_chunk(b"iCCP", b"p\0\0" + BOMB)),
    "PNG: colour profile, unknown compression": (PNG, with_chunk(b"iCCP", b"p\0\7x")),
    "PNG: empty colour profile": (PNG, with_chunk(b"iCCP", b"")),
    "PNG: EXIF is garbage": (PNG, with_chunk(b"eXIf", b"garbage")),
    "PNG: EXIF ends early": (PNG, with_chunk(b"eXIf", ORIENTED[:14])),
    "PNG: rational orientation": (PNG, with_chunk(b"eXIf", RATIONAL)),
    "PNG: orientation 9": (PNG, with_chunk(b"eXIf", ORIENTED.replace(b"\x06", b"\x09"))),
    "PNG: text of 2 MiB": (PNG, with_chunk(b"zTXt", b"k\0\0" + BOMB)),
    "PNG: text, unknown compression": (PNG, with_chunk(b"zTXt", b"k\0\1" + BOMB)),
    "PNG: international text of 2 MiB": (PNG, with_chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)),
    "PNG: text after the pixels": (PNG, with_chunk(b"zTXt", b"k\0\0" + BOMB, late=True)),
    "PNG: text that Pillow takes for its own": (PNG, with_chunk(b"tEXt", b"transparency\0x")),
    "PNG: EXIF text is no hexadecimal": (PNG, with_chunk(b"tEXt", HEX + b"\nexif\n1\nzz")),
    "PNG: EXIF text of 2 MiB": (PNG, with_chunk(b"zTXt", HEX + b"\0" + BOMB)),
    "PNG: XMP is garbage": (PNG, with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff\xfe")),
    "PNG: wrong checksum of a text": (PNG, with_chunk(b"tEXt", b"k\0v", broken=True)),
    **{
        f"PNG: {name.decode()} of 1 byte": (PNG, with_chunk(name, b"\0"))
        for name in (b"gAMA", b"cHRM", b"pHYs", b"acTL", b"fcTL", b"fdAT", b"sBIT", b"tIME")
    },
    "JPEG: EXIF is garbage": (JPEG, with_segment(0xE1, b"Exif\0\0garbage")),
    "JPEG: rational orientation": (JPEG, with_segment(0xE1, b"Exif\0\0" + RATIONAL)),
    "JPEG: short JFIF": (JPEG, with_segment(0xE0, b"JFIF\0")),
    "JPEG: short colour profile": (JPEG, with_segment(0xE2, b"ICC_PROFILE\0")),
    "JPEG: broken index of pictures": (JPEG, with_segment(0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff")),
    "JPEG: broken Photoshop block": (JPEG, with_segment(0xED, b"Photoshop 3.0\x008BIM\0\0")),
    "JPEG: short Adobe segment": (JPEG, with_segment(0xEE, b"Adobe", after=20)),
    "WebP: EXIF is garbage": (WEBP, with_riff(EXIF=b"garbage")),
    "WebP: rational orientation": (WEBP, with_riff(EXIF=RATIONAL)),
    "WebP: profile is garbage": (WEBP, with_riff(ICCP=b"garbage")),
    "WebP: EXIF ends after the file": (WEBP, with_riff(EXIF=(b"II*\0", 9999))),
    "GIF: application block without content": (GIF, with_block(b"\x21\xff\x0bNETSCAPE2.0\0")),
    "GIF: empty comment": (GIF, with_block(b"\x21\xfe\0")),
    **{
        f"TIFF {options.get('compression', '')}: tag {tag}, type {kind}": (
            encoded(PICTURE, "TIFF"),
            tiff(tag, kind, count, value, **options),
        )
        for options in ({}, {"compression": "tiff_lzw"})
        for tag in (270, 282, 296, 305, 306, 700, 33432, 34665, 34675)
        for kind, count, value in ((5, 1, 8), (2, 9**9, 8), (3, 2, 2**32 - 1), (99, 1, 1))
    },
    "TIFF: rational orientation": (encoded(PICTURE, "TIFF"), tiff(274, 5, 1, 8)),
    "AVIF: EXIF is garbage": (
        encoded(PICTURE, "AVIF"),
        encoded(PICTURE, "AVIF", exif=b"II*\0\x08\0\0\0\xff\xffxx"),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_metadata_is_ignored(name):
    plain, broken = BROKEN[name]
    assert torch.equal(read_image(broken, "RGB"), read_image(plain, "RGB"))


def test_broken_metadata_of_an_animation_is_ignored():
    data = encoded(PICTURE, save_all=True, append_images=[seven((40, 28)).convert("RGB")] * 2)
    broken = data[:33] + chunk(b"iCCP", b"p\0\0" + BOMB) + data[33:]
    assert torch.equal(read_image(broken, "RGB"), read_image(PNG, "RGB"))


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
TURNED = {
    "PNG, EXIF": with_chunk(b"eXIf", ORIENTED),
    "PNG, EXIF beside a broken profile": with_chunk(b"eXIf", ORIENTED).replace(
        PNG[:33], PNG[:33] + chunk(b"iCCP", b"")
    ),
    "PNG, EXIF after the pixels": with_chunk(b"eXIf", ORIENTED, late=True),
    "PNG, EXIF as text": with_chunk(b"tEXt", HEX + profile(ORIENTED)),
    "PNG, EXIF as packed text": with_chunk(b"zTXt", HEX + b"\0" + zlib.compress(profile(ORIENTED))),
    "PNG, XMP": with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "WebP, EXIF": with_riff(EXIF=ORIENTED),
    "TIFF": tiff(274, 3, 1, 6),
    "TIFF, compressed": tiff(274, 3, 1, 6, compression="tiff_lzw"),
}


@pytest.mark.parametrize("name", TURNED)
def test_orientation_is_found_in_every_format(name):
    upright = read_image(PNG, "RGB").transpose(1, 2).flip(2)
    assert torch.equal(read_image(TURNED[name], "RGB"), upright)


@pytest.mark.parametrize(
    "block", [b"Exif\0\0" + ORIENTED, b"http://ns.adobe.com/xap/1.0/\0" + XMP], ids=["EXIF", "XMP"]
)
@pytest.mark.parametrize("scale_to", [None, 14])
def test_a_jpeg_is_rotated_by_every_decoder(block, scale_to):
    turned = read_image(with_segment(0xE1, block), "RGB", scale_to=scale_to)
    plain = read_image(JPEG, "RGB", scale_to=scale_to)
    assert torch.equal(turned, plain.transpose(1, 2).flip(2))


def test_tags_that_announce_gigabytes_use_no_memory():
    """5,000 tags refer to the same 1 MB, and Pillow would copy it for each of them."""
    count, size = 5_000, 1_000_000
    tags = b"".join(struct.pack("<HHII", 40_000 + n, 1, size, 0) for n in range(count))
    bomb = b"II*\0\x08\0\0\0" + struct.pack("<H", count) + tags + bytes(4) + bytes(size)
    tracemalloc.start()
    decoded = read_image(with_chunk(b"eXIf", bomb), "RGB")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert torch.equal(decoded, read_image(PNG, "RGB"))
    assert peak < 20_000_000


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (PNG.replace(b"IHDR", b"IHDX"), "PNG"),
        (PNG[:20] + b"\xff" + PNG[21:], "PNG"),  # its checksum is wrong
        (PNG[:24] + b"\x05" + PNG[25:], "PNG"),  # a depth that there is not
        (PNG[:33], "PNG"),
        (PNG[:9], "PNG"),
        (PNG.replace(b"\r\n", b"\n", 1), "PNG"),  # sent as text
        (JPEG[:3], "JPEG"),
        (b"\xff\xd8\xff\xd9", "JPEG"),
        (GIF[:8], "GIF"),
        (WEBP[:14], ""),
        (b"II*\0\xff\xff\xff\xff", "TIFF"),
        (b"MM\0*", "TIFF"),
        (encoded(PICTURE, "BMP")[:20], "BMP"),
        (b"P6\n10", "PPM"),
        (encoded(PICTURE, "AVIF")[:40], ""),
        (encoded(PICTURE, "JPEG2000")[:20], ""),
    ],
)
def test_an_image_with_a_broken_header_is_400(data, kind):
    with pytest.raises(InputError) as refused:
        read_image(data, "L")
    assert refused.value.status == 400
    assert f"{kind} image" in refused.value.message or not kind


@pytest.mark.parametrize("data", [b"P6 is a model", b"BMW", b"RIFF is a word", b"%PDF-1.7", b"GIF"])
def test_a_file_of_another_type_is_415(data):
    with pytest.raises(InputError) as refused:
        read_image(data, "L")
    assert refused.value.status == 415


@pytest.mark.skipif(not CASES.is_dir(), reason="the shared cases are not here")
@pytest.mark.parametrize("name", ["big_icc", "exif_garbage", "exif_rational"])
def test_files_of_bug_reports_are_predicted(name):
    data = (CASES / f"{name}.png").read_bytes()
    assert read_image(data, "L").float().mean() == pytest.approx(33.34, abs=0.01)
