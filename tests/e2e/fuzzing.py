"""Bodies that no caller should send: mutated images, JSON, forms and encodings, by a seed."""

from __future__ import annotations

import base64
import gzip
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fuzzed:
    """One request. `may_fail`: a 5xx is the doubler's deliberate one, or TorchServe's own."""

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
    """`count` requests for the models `mnist` and `doubler`."""
    rng = random.Random(seed)
    makers = (_image, _image, _json, _json, _mutated_json, _multipart, _compressed, _noise)
    for _ in range(count):
        yield rng.choice(makers)(rng, images)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """Flips, drops, doubles or overwrites a few bytes."""
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
    # The doubler's own faults: 1e308 doubles to infinity.
    return Fuzzed(model, {"Content-Type": JSON}, body, may_fail=model == "doubler")


def _mutated_json(rng: random.Random, images: Sequence[bytes]) -> Fuzzed:
    body = mutate(rng, json.dumps(_value(rng, images)).encode())
    # A mutation can make the very numbers that the doubler's model fails for.
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
    # TorchServe's own 500, before any handler, where it cannot decode a form.
    return Fuzzed("mnist", {"Content-Type": kind} if kind else {}, body, may_fail=kind == FORM)
