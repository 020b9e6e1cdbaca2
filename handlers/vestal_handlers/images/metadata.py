"""The format and the orientation of an image file, and the file without its metadata.

Metadata that cannot be read is ignored, as the pixels can still be decoded. Pillow would refuse a
file with a broken colour profile or EXIF block, and allocate what these announce, so metadata is
removed first.
"""

from __future__ import annotations

import contextlib
import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from vestal_handlers.images.frames import PNG_SIGNATURE, gif_blocks, png_chunks

Data = bytes | bytearray

_KINDS = re.compile(
    rb"(?P<PNG>\x89PNG)|(?P<JPEG>\xff\xd8)|(?P<GIF>GIF8[79]a)|(?P<TIFF>II[*+]\0|MM\0[*+])"
    rb"|(?P<WEBP>RIFF....WEBP)|(?P<AVIF>....ftypavi[fs])|(?P<BMP>BM....\0\0\0\0)"
    rb"|(?P<JPEG2000>\0\0\0\x0cjP {2}|\xff\x4f\xff\x51)|(?P<PPM>P[1-7]\s\s*[\d#])",
    re.DOTALL,
)
_PNG_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
# Tags of TIFF 6.0 and its supplements that describe the pixels, without Orientation.
_TIFF_PIXELS = {
    *(254, 255, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320),
    *range(322, 326),
    *(332, 338, 339, 340, 341, 347, *range(512, 522), 529, 530, 531, 532),
}
_ORIENTATION = 0x0112
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_MAX_TEXT = 1 << 20  # bytes of a decompressed text chunk


def kind_of(data: Data) -> str | None:
    """Pillow's name of the format that the first bytes indicate; None: not an image."""
    match = _KINDS.match(data)
    return match.lastgroup if match else None


def without_metadata(data: Data, kind: str | None) -> Data:
    """Remove the metadata that Pillow might fail to read; a truncated file stays unchanged."""
    strip = {
        "PNG": _strip_png,
        "TIFF": _strip_tiff,
        "JPEG": _strip_jpeg,
        "WEBP": _strip_webp,
        "GIF": _strip_gif,
    }.get(kind or "")
    try:
        return strip(data) if strip else data
    except (struct.error, IndexError):  # truncated inside a header: decoding reports it
        return data


def orientation_of(image: Image.Image, data: Data, kind: str | None) -> int:
    """The orientation, 1 to 8, from the EXIF block or else from XMP; 1 if neither can be read."""
    exif: Data = data
    xmp: Data = b""
    if kind == "PNG":
        exif, xmp = _png_metadata(data)
    elif kind != "TIFF":
        exif, xmp = image.info.get("exif", b""), image.info.get("xmp", b"")
    match = _XMP.search(xmp)
    return _exif_orientation(exif) or (int(match[1]) if match else 1)


def _strip_png(data: Data) -> Data:
    view = memoryview(data)
    chunks = [view[start:end] for kind, start, end in png_chunks(data) if kind in _PNG_PIXELS]
    return b"".join([view[: len(PNG_SIGNATURE)], *chunks])


def _png_metadata(data: Data) -> tuple[Data, Data]:
    """The EXIF block and the XMP document of a PNG; ImageMagick writes EXIF as hexadecimal text."""
    exif: Data = b""
    profile: Data = b""
    xmp: Data = b""
    for kind, start, end in png_chunks(data):
        body = data[start + 8 : end - 4] if kind[0] & 0x20 else b""
        if kind == b"eXIf":
            exif = exif or body
        elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            xmp = xmp or body
        elif kind in (b"tEXt", b"zTXt") and body.startswith(b"Raw profile type exif\0"):
            profile = profile or _profile(body.partition(b"\0")[2], kind == b"zTXt")
    return exif or profile, xmp


def _profile(text: Data, compressed: bool) -> bytes:
    """The bytes of a profile in hexadecimal text; empty if they cannot be read."""
    try:
        plain = zlib.decompressobj().decompress(text[1:], _MAX_TEXT) if compressed else text
        return bytes.fromhex(b"".join(plain.split(b"\n")[3:]).decode())
    except (zlib.error, ValueError):
        return b""


def _exif_orientation(block: Data) -> int | None:
    """The orientation in the first directory of a TIFF; an EXIF block has the same structure.

    Pillow's reader would load all tags, and a few kilobytes of them can announce gigabytes.
    """
    if block[:6] == b"Exif\0\0":
        block = block[6:]
    with contextlib.suppress(struct.error, KeyError):
        for _, tag, kind, count, at in _tiff_tags(block):
            if tag == _ORIENTATION and kind in (3, 4) and count == 1:  # SHORT or LONG
                order = _byte_order(block)
                (value,) = struct.unpack_from(order + {3: "H", 4: "I"}[kind], block, at)
                return value if 1 <= value <= 8 else None
    return None


def _byte_order(data: Data) -> str:
    return {b"II": "<", b"MM": ">"}[bytes(data[:2])]


def _directory(data: Data) -> tuple[int, str, str, str]:
    """Position of the first directory, and the struct formats of its count, entry and offset."""
    order = _byte_order(data)
    (version,) = struct.unpack_from(order + "H", data, 2)
    count, entry, offset, at = {
        42: ("H", "HHI4s", "I", 4),
        43: ("Q", "HHQ8s", "Q", 8),  # BigTIFF
    }[version]
    (start,) = struct.unpack_from(order + offset, data, at)
    return start, order + count, order + entry, order + offset


def _tiff_tags(data: Data) -> Iterator[tuple[int, int, int, int, int]]:
    """Position, tag, type, count and position of the value of each entry in the first directory."""
    start, count, entry, _ = _directory(data)
    (entries,) = struct.unpack_from(count, data, start)
    at, size = start + struct.calcsize(count), struct.calcsize(entry)
    for position in range(at, at + entries * size, size):
        tag, kind, number, _ = struct.unpack_from(entry, data, position)
        yield position, tag, kind, number, position + size - (4 if size == 12 else 8)


def _strip_tiff(data: Data) -> Data:
    try:
        start, count, entry, offset = _directory(data)
        positions = [position for position, tag, *_ in _tiff_tags(data) if tag in _TIFF_PIXELS]
        (entries,) = struct.unpack_from(count, data, start)
    except KeyError:  # another byte order or version
        return data
    size, first = struct.calcsize(entry), start + struct.calcsize(count)
    following = data[first + entries * size :][: struct.calcsize(offset)]
    stripped = bytearray(data)
    directory = b"".join(data[position : position + size] for position in positions) + following
    struct.pack_into(count, stripped, start, len(positions))
    stripped[first : first + len(directory)] = directory
    return stripped


def _strip_jpeg(data: Data) -> Data:
    """Remove comments and application segments, except Adobe's, which states the colour model."""
    segments, at = [data[:2]], 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        marker = data[at + 1]
        (length,) = struct.unpack_from("!H", data, at + 2)
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or _is_adobe(data, at, length):
            segments.append(data[at : at + 2 + length])
        at += 2 + length
    return b"".join([*segments, data[at:]])


def _is_adobe(data: Data, at: int, length: int) -> bool:
    return data[at + 1] == 0xEE and length >= 14 and data[at + 4 : at + 9] == b"Adobe"


def _strip_webp(data: Data) -> Data:
    chunks, at = bytearray(), 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length + length % 2
        chunk = bytearray(data[at:end])
        if kind == b"VP8X":
            chunk[8] &= ~0x2C & 0xFF  # flags: no ICC profile, no EXIF, no XMP
        if kind not in (b"ICCP", b"EXIF", b"XMP "):
            chunks += chunk
        at = end
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def _strip_gif(data: Data) -> Data:
    """Remove comments and application extensions; keep graphic control (0xF9): transparency."""
    blocks = [data[start:end] for label, start, end in gif_blocks(data) if label in (None, 0xF9)]
    return b"".join(blocks)
