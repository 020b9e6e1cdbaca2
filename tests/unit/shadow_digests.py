"""Digests of responses, as workers write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vestal_handlers.digests import SUFFIX, answer_of, digest_line, version_folder

START = 1_700_000_000.0


def digest(
    request_id: str,
    answer: Any = None,
    *,
    shadow: bool = False,
    at: float = START,
    status: int = 200,
    seconds: float = 0.01,
    compared_with: str = "2.0",
) -> bytes:
    """A line; `answer` is a JSON value, or bytes that are not JSON."""
    headers = {"x-request-id": request_id, "x-vestal-compare": compared_with}
    headers |= {"x-vestal-shadow": "1"} if shadow else {}
    is_media = isinstance(answer, bytes)
    body = answer if is_media else json.dumps(answer, ensure_ascii=False).encode()
    kind = "image/png" if is_media else "application/json"
    return digest_line(headers, at, seconds, status, answer_of(body, kind))


def write_digests(root: Path, version: str, *lines: bytes, worker: str = "w", model: str = "m"):
    """Add lines to the file of a worker."""
    folder = version_folder(root, model, version)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{worker}-000001{SUFFIX}").open("ab") as file:
        file.write(b"".join(lines))


def classified(label: str, probability: float = 0.9, other: str = "no") -> dict[str, Any]:
    """The prediction of a classifier."""
    best = {"label": label, "index": len(label), "probability": probability}
    second = {"label": other, "index": len(other), "probability": 1 - probability}
    return {**best, "top": [best, second]}
