"""Invalid request bodies from a seed: mutated images, JSON, forms and encodings."""

from __future__ import annotations

import base64
import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hostile


@dataclass(frozen=True)
class Fuzzed:
    """One request. `may_fail`: the doubler or TorchServe itself may respond with a 5xx."""

    model: str
    headers: dict[str, str]
    body: bytes
    may_fail: bool = False


JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
TYPES = ("", JSON, "text/plain", "image/png", "application/octet-stream", "text/csv; charset=x")
VALUES: Sequence[Any] = (
    None, True, False, 0, -1, 1.5, 1e308, 10**30, "", "x", "7" * 2000, "\u0000", "é", [], {}, [[]],
    {"data": None}, {"b64": "!!"}, {"b64": 3}, {"instances": 3}, {"instances": [None, [], {}]},
    {"inputs": [{"datatype": "FP32"}]}, {"inputs": []}, {"data": {"data": {"data": 1}}},
)  # fmt: skip


def bodies(count: int, images: Sequence[bytes], seed: int) -> Iterator[Fuzzed]:
    """Yield `count` requests for the models `mnist` and `doubler`."""
    rng = random.Random(seed)
    makers = (
        *(_image, _image, _json, _json, _mutated_json, _multipart, _compressed, _noise),
        *(_tensor, _narrow_image, _past_a_limit),
    )
    for _ in range(count):
        yield rng.choice(makers)(rng, images)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Flip, drop, double or overwrite a few bytes."""
    mutable = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        if not mutable:
            break
        at = rng.randrange(len(mutable))
        match rng.randrange(5):
            case 0:
                mutable[at] ^= 1 << rng.randrange(8)
            case 1:
                del mutable[at : at + rng.randint(1, 40)]
            case 2:
                mutable[at:at] = mutable[at : at + rng.randint(1, 40)]
            case 3:
                mutable[at] = rng.choice((0, 255, 0x7F, 0x80))
            case _:
                del mutable[at:]
    return bytes(mutable)


def _image(rng: random.Random, images: Sequence[bytes]) -> Fuzzed:
    kind = rng.choice(TYPES)
    return Fuzzed("mnist", {"Content-Type": kind} if kind else {}, mutate(rng, rng.choice(images)))


def _value(rng: random.Random, images: Sequence[bytes], depth: int = 0) -> Any:
    choice = rng.randrange(6 if depth < 4 else 3)
    if choice < 2:
        return rng.choice(VALUES)
    if choice == 2:
        return base64.b64encode(mutate(rng, rng.choice(images))).decode()
    if choice == 3:
        return [_value(rng, images, depth + 1) for _ in range(rng.randrange(5))]
    names = ("data", "instances", "inputs", "b64", "x", "name", "shape", "datatype")
    return {rng.choice(names): _value(rng, images, depth + 1) for _ in range(rng.randrange(4))}


def _json(rng: random.Random, images: Sequence[bytes]) -> Fuzzed:
    body = json.dumps(_value(rng, images)).encode()
    model = rng.choice(("mnist", "doubler"))
    # The doubler fails for these; 1e308 doubles to infinity.
    return Fuzzed(model, {"Content-Type": JSON}, body, may_fail=model == "doubler")


def _mutated_json(rng: random.Random, images: Sequence[bytes]) -> Fuzzed:
    body = mutate(rng, json.dumps(_value(rng, images)).encode())
    # A mutation can create the numbers for which the doubler fails.
    return Fuzzed("doubler", {"Content-Type": JSON}, body, may_fail=True)


def _multipart(rng: random.Random, images: Sequence[bytes]) -> Fuzzed:
    body = b""
    for number in range(rng.randrange(4)):
        name = rng.choice(("a", "data", "body", f"f{number}"))
        file = rng.choice(('; filename="x.png"', ""))
        kind = rng.choice(("", "\r\nContent-Type: image/png", f"\r\nContent-Type: {JSON}"))
        data = mutate(rng, rng.choice(images))
        body += f'--b\r\nContent-Disposition: form-data; name="{name}"{file}{kind}\r\n\r\n'.encode()
        body += data + b"\r\n"
    body += b"--b--\r\n"
    broken = rng.random() < 0.5
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return Fuzzed("mnist", headers, mutate(rng, body) if broken else body, may_fail=broken)


def _compressed(rng: random.Random, images: Sequence[bytes]) -> Fuzzed:
    body = gzip.compress(rng.choice(images), mtime=0)
    encoding = rng.choice(("gzip", "x-gzip", "GZIP", "deflate", "identity", ""))
    return Fuzzed(
        "mnist", {"Content-Encoding": encoding}, mutate(rng, body) if rng.random() < 0.7 else body
    )


def _noise(rng: random.Random, images: Sequence[bytes]) -> Fuzzed:
    kind = rng.choice((*TYPES, FORM))
    body = rng.randbytes(rng.choice((0, 1, 10, 1000, 100_000)))
    # TorchServe responds with 500 if it cannot decode a form.
    return Fuzzed("mnist", {"Content-Type": kind} if kind else {}, body, may_fail=kind == FORM)


# At, above and below limits of handlers and number types; 0; larger than memory.
SIZES: Sequence[Any] = (0, 1, 2, 3, 255, 256, 257, 10**7, 2**31 - 1, 2**31, 2**63, -1, 1.5, True)
DATATYPES = ("BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64", "BYTES", "COMPLEX")


def _tensor(rng: random.Random, images: Sequence[bytes]) -> Fuzzed:
    dimensions = rng.choice((1, 1, 2, 2, 3, 4, 32, 33, 64, 65))
    tensors = [
        {
            "name": rng.choice(("x", "y", "n" * 3000)),
            "shape": [rng.choice(SIZES) for _ in range(dimensions)],
            "datatype": rng.choice(DATATYPES),
            "data": [rng.choice((0, 1, 2.5, "a", [], [1], None))] * rng.choice((0, 1, 2, 256, 257)),
        }
        for _ in range(rng.choice((1, 1, 2)))
    ]
    body = json.dumps({"inputs": tensors, "id": rng.choice(("a", "i" * 300, 7, []))}).encode()
    model = rng.choice(("mnist", "doubler"))
    return Fuzzed(model, {"Content-Type": JSON}, body, may_fail=model == "doubler")


def _narrow_image(rng: random.Random, images: Sequence[bytes]) -> Fuzzed:
    """A wide or tall image, or many of them in one request."""
    sides = [rng.choice((1, 2, 30)), rng.choice((100, 5000, 20_000, 65_535, 70_000))]
    rng.shuffle(sides)
    image = hostile.png(*sides)
    if rng.random() < 0.5:
        return Fuzzed("mnist", {}, image)
    text = base64.b64encode(image).decode()
    body = json.dumps({"instances": [text] * rng.choice((2, 40, 256, 257))}).encode()
    return Fuzzed("mnist", {"Content-Type": JSON}, body)


def _past_a_limit(rng: random.Random, images: Sequence[bytes]) -> Fuzzed:
    """A body at a default limit of a handler, or slightly larger."""
    more = rng.choice((-1, 0, 1))
    packed = {"Content-Type": JSON, "Content-Encoding": "gzip"}
    match rng.randrange(7):
        case 0:  # max_instances
            return Fuzzed("mnist", packed, hostile.zipped_instances(256 + more))
        case 1:  # max_values; each empty list is counted twice
            return Fuzzed("mnist", packed, hostile.zipped_instances(1_000_000 - 2 + more))
        case 2:  # max_json_bytes
            text = b'"' + b"A" * (10_000_000 - 2 + more) + b'"'
            return Fuzzed("mnist", packed, gzip.compress(text, mtime=0))
        case 3:  # max_depth
            return Fuzzed("mnist", packed, gzip.compress(b"[" * (32 + more) + b"]" * (32 + more)))
        case 4:  # max_bytes
            zeros = gzip.compress(bytes(20_000_000 + more), mtime=0)
            return Fuzzed("mnist", {"Content-Encoding": "gzip"}, zeros)
        case 5:  # max_pixels, one bit each
            return Fuzzed("mnist", {}, hostile.png(10_000, 5_000 + more))
        case _:
            return Fuzzed("mnist", {}, rng.choice(list(hostile.PIECES.values()))(100_000))
