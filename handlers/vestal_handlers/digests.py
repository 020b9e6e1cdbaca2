"""Digests of compared responses: a JSON line per response, for `vestal shadow report`.

The gateway marks each request that it mirrors, and the copy that it sends to the shadow version:

    x-vestal-compare: VERSION   on both; the version of the shadow
    x-vestal-shadow: 1          on the copy
    x-request-id: ID            on both; the report joins the two responses by it

Callers cannot set the first two, because the gateway removes them. Digests are written only if the
server names a folder for them in VESTAL_SHADOW_FOLDER, which `vestal serve` does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

logger = logging.getLogger(__name__)

FOLDER_VARIABLE = "VESTAL_SHADOW_FOLDER"
COMPARE, SHADOW, REQUEST_ID = "x-vestal-compare", "x-vestal-shadow", "x-request-id"
SUFFIX = ".jsonl"

MAX_BODY = 4096
"""Bytes of a JSON response that is kept; of a longer or different one, its hash is kept."""
MAX_ID, MAX_VERSION = 128, 200
FILE_BYTES = 4 << 20
"""Size at which a worker starts a new file."""
LEAST_BYTES = 1 << 16
"""Size that a smaller file counts for, so that the number of files is limited, too."""
VERSION_BYTES, TOTAL_BYTES = 64 << 20, 512 << 20
"""Limits on the files of one version and of all versions; the oldest files are removed."""
PAUSE_SECONDS = 5.0
"""After a failure, such as a full disk, nothing is written for this time."""


def version_folder(root: Path, model: str, version: str) -> Path:
    """Return the folder of a version's digests; its parent is that of the model."""
    return root / _component(model) / _component(version)


def name_of(folder: Path) -> str:
    """Return the model or version that a folder is named after."""
    return unquote(folder.name)


def _component(name: str) -> str:
    text = quote(name, safe="")
    return f"%2E{text[1:]}" if text.startswith(".") else text


class DigestLog:
    """Writes the digests of one worker; never raises.

    Lines are written at once and not by a thread: a killed worker has lost none, and the time is
    that of one `write` into the system's cache.
    """

    def __init__(self, root: Path, model: str, version: str, worker: str) -> None:
        self._root, self._folder = root, version_folder(root, model, version)
        self._worker, self._number = worker, 0
        self._file: int | None = None
        self._size = 0
        self._paused_until = 0.0
        self._reported = False

    @classmethod
    def of_server(cls, model: str, version: str, worker: str) -> DigestLog | None:
        """Return the log for the folder that the server names; None if it names none."""
        root = os.environ.get(FOLDER_VARIABLE)
        return cls(Path(root), model, version, worker) if root else None

    def add(
        self, requests: Sequence[Any], bodies: Sequence[bytes], context: Any, begun: float
    ) -> None:
        """Write the digests of the marked requests of a batch.

        Args:
            requests: the `InferenceRequest`s of the batch.
            context: TorchServe's, with the statuses and content types of the responses.
            begun: time.monotonic() when the batch arrived.
        """
        now = time.monotonic()
        try:
            marked = [r for r in requests if COMPARE in r.headers or SHADOW in r.headers]
            if not marked or now < self._paused_until:
                return
            lines, at = [], time.time()
            for request in marked:
                status, _ = context.get_response_status(request.index)
                kind = context.get_response_content_type(request.index)
                answer = answer_of(bodies[request.index], kind)
                lines.append(digest_line(request.headers, at, now - begun, status, answer))
            self._write(b"".join(lines))
            self._reported = False
        except Exception as error:  # a comparison never fails a request
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            if not self._reported:
                self._reported = True
                logger.error("digests for the shadow report cannot be written: %s", error)

    def close(self) -> None:
        """Close the file; the next digest starts a new one."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _write(self, lines: bytes) -> None:
        # The operator, or a worker that makes space, may have removed the file.
        if self._file is None or self._size >= FILE_BYTES or not os.fstat(self._file).st_nlink:
            self._start_file()
        assert self._file is not None
        written = os.write(self._file, lines)
        self._size += written
        if written < len(lines):
            self.close()  # the next line must not continue an incomplete one
            raise OSError(f"no space left in {self._folder}")

    def _start_file(self) -> None:
        self.close()
        self._root.mkdir(mode=0o700, exist_ok=True)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._make_space()
        self._number += 1
        path = self._folder / f"{self._worker}-{self._number:06}{SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file, self._size = os.open(path, flags, 0o600), 0

    def _make_space(self) -> None:
        """Remove the oldest files, so that one more does not exceed the limits."""
        found: list[tuple[float, int, Path]] = []
        for file in self._root.glob(f"*/*/*{SUFFIX}"):
            try:
                stat = file.stat()
            except FileNotFoundError:  # another worker makes space, too
                continue
            found.append((stat.st_mtime, max(stat.st_size, LEAST_BYTES), file))
        total, of_version = FILE_BYTES, defaultdict(int, {self._folder: FILE_BYTES})
        for _, size, file in sorted(found, reverse=True):
            if total + size > TOTAL_BYTES or of_version[file.parent] + size > VERSION_BYTES:
                file.unlink(missing_ok=True)
            else:
                total += size
                of_version[file.parent] += size


def digest_line(
    headers: Mapping[str, str], at: float, seconds: float, status: int, answer: Mapping[str, Any]
) -> bytes:
    r"""Return a digest as one line of ASCII, which ends with \n.

    Args:
        headers: those of the request, with names in lower case.
        at: when the response was made, in seconds since 1970.
        seconds: time of its batch in the handler.
        answer: see `answer_of`.
    """
    digest = {
        "id": _short_id(headers.get(REQUEST_ID, "")),
        "shadow": headers.get(SHADOW) == "1",
        "with": headers.get(COMPARE, "")[:MAX_VERSION],
        "at": round(at, 3),
        "seconds": round(seconds, 6),
        "status": status,
        **answer,
    }
    return json.dumps(digest).encode() + b"\n"


def answer_of(body: bytes | str, content_type: str | None) -> dict[str, Any]:
    """Return `{"body": text}` for JSON of at most MAX_BODY bytes, else its length and sha256."""
    data = body.encode() if isinstance(body, str) else bytes(body)
    if (content_type or "").startswith("application/json") and len(data) <= MAX_BODY:
        try:
            return {"body": data.decode()}
        except UnicodeDecodeError:
            pass
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _short_id(request_id: str) -> str:
    """The ID itself, or its hash if it is long: callers choose it, if the gateway allows that."""
    if len(request_id) <= MAX_ID:
        return request_id
    return f"sha256:{hashlib.sha256(request_id.encode('utf-8', 'surrogatepass')).hexdigest()}"
