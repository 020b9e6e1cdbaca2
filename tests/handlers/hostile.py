"""Small request bodies for which a careless worker would allocate gigabytes or spend minutes."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imaging import encoded
from PIL import Image

from vestal.inprocess import Input, LoadedArchive, Response


def png(width: int, height: int) -> bytes:
    """A black image of one bit per pixel: 6 kB for 7000 x 7000."""
    row = bytes((width + 7) // 8 + 1)
    packer = zlib.compressobj(9)
    pixels = b"".join([packer.compress(row) for _ in range(height)]) + packer.flush()
    header = struct.pack("!IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(name, data) for name, data in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + name + data + struct.pack("!I", zlib.crc32(name + data))


def progressive(side: int, scans: int) -> bytes:
    """A grey JPEG whose last scan is repeated; 100 bytes of it decode all pixels again."""
    image = encoded(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = image.rindex(b"\xff\xda")
    return image[:-2] + image[last:-2] * scans + image[-2:]


def tiled(side: int) -> bytes:
    """A TIFF of 16 x 16 pixels in a tile of `side` x `side`, compressed by a factor of 1,000."""
    tile = zlib.compress(bytes(side * side), 9)
    fields = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side}
    start = 8 + 2 + 12 * 10 + 4
    entries = [*fields.items(), (324, start), (325, len(tile))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + directory + bytes(4) + tile


def tensor(shape: list[Any], data: tuple[Any, ...] = (), **more: Any) -> bytes:
    """A v2 request of one tensor, which may be inconsistent; `more` are fields of the request."""
    one = {"name": "x", "shape": shape, "datatype": "UINT8", "data": list(data)}
    return json.dumps({"inputs": [one], **more}).encode()


def zipped_instances(count: int) -> bytes:
    """`{"instances": [[], [], ...]}`, compressed by a factor of 1,000."""
    return gzip.compress(b'{"instances":[' + b"[]," * (count - 1) + b"[]]}", mtime=0)


# Files that Pillow parses in a Python loop, a few bytes at a time.
PIECES: dict[str, Callable[[int], bytes]] = {
    "JPEG padding": lambda count: b"\xff\xd8\xff" + bytes(count),
    "PNG chunks": lambda count: png(8, 8)[:33] + chunk(b"prVt", b"") * count + png(8, 8)[33:],
    "GIF comments": lambda count: (
        b"GIF89a\x08\0\x08\0\0\0\0" + b"\x21\xfe" + b"\1A" * count + b"\0;"
    ),
    "PPM comment": lambda count: b"P5 #" + b"A" * count,
}


def peak() -> int:
    """The peak of resident memory of this process in bytes since the last `reset_peak`."""
    return peak_of("self")


def peak_of(pid: int | str) -> int:
    """The peak of a process; see `peak`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def reset_peak(pid: int | str = "self") -> None:
    """Reset the peak of resident memory (proc(5), clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def predict_hostile(loaded: LoadedArchive, hostile_input: Input, good: bytes = b"1") -> Response:
    """The response to a hostile request; its neighbours are predicted, and memory hardly grows."""
    neighbour = Input.raw(good, "" if good[:1] == b"\x89" else "application/json")
    reset_peak()
    before = peak()
    first, answer, last = loaded.predict([neighbour, hostile_input, neighbour])
    assert (first.status, last.status) == (200, 200)
    assert peak() - before < 150_000_000
    return answer
