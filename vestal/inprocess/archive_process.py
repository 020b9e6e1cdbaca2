"""An archive in a process of its own, asked through a pipe (see `vestal.inprocess.child`)."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import vestal
from vestal.children import parents_pid
from vestal.errors import VestalError
from vestal.inprocess.frontend import Frontend, Sent
from vestal.inprocess.messages import Answer

SECONDS = 300.0  # for a load, and for an answer
_TO_END = 10.0  # for a process that closed its pipe
_TAIL = 2000  # bytes of what it wrote last


def python_path() -> str:
    """PYTHONPATH for a process that must find this vestal, whatever the folder it starts in."""
    root = str(Path(vestal.__file__).parents[1])
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))


class ArchiveProcess:
    """Loads an unpacked archive there; `name` is for messages.

    Raises:
        VestalError: it does not load, dies, or takes longer than `seconds`.
    """

    def __init__(
        self, folder: Path, name: str, frontend: Frontend, seconds: float = SECONDS
    ) -> None:
        self.name, self._seconds = name, seconds
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - close() closes it
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vestal.inprocess.child", str(folder)),
                *("decode" if frontend.decode else "raw", str(frontend.max_request_size)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env={
                **os.environ,
                **parents_pid(),
                "PYTHONPATH": python_path(),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._waiting = "loading"

    def ready(self) -> None:
        """Waits until it is loaded: several load at the same time."""
        said = self._exchange(b"")
        if "failed" in said:
            raise VestalError(f"{self.name}: {said['failed']}")

    def ask(self, sent: Sent) -> tuple[Answer, float | None]:
        """Its answer, and the seconds that the handler took; None where none was asked."""
        self._waiting = f"answering {sent.name}"
        question = {
            "body": base64.b64encode(sent.body).decode(),
            "content_type": sent.content_type,
            "headers": dict(sent.headers),
        }
        said = self._exchange(json.dumps(question).encode() + b"\n")
        body = base64.b64decode(said["body"])
        answer = Answer(said["status"], said["headers"], body, said["reached"])
        return answer, said["seconds"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        # Not read to their end: a process that the handler started may hold them open.
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> ArchiveProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, question: bytes) -> dict[str, Any]:
        """Writes the question and reads a line; neither pipe blocks for longer than the limit."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        end = time.monotonic() + self._seconds
        left, line = memoryview(question), bytearray()
        while not line.endswith(b"\n"):
            writing = [stdin] if left else []
            seconds = max(0.0, end - time.monotonic())
            readable, writable, _ = select.select([stdout], writing, [], seconds)
            if not readable and not writable:
                raise VestalError(
                    f"{self.name}: {self._waiting} took longer than {self._seconds:g} s"
                )
            try:
                if writable:
                    left = left[os.write(stdin.fileno(), left) :]
                if readable:
                    piece = os.read(stdout.fileno(), 1 << 16)
                    if not piece:
                        raise self._died()
                    line += piece
            except BrokenPipeError:
                raise self._died() from None
        return dict(json.loads(line))

    def _died(self) -> VestalError:
        try:
            code = self._process.wait(_TO_END)
        except subprocess.TimeoutExpired:  # it closed its pipe and lives on
            self._process.kill()
            code = self._process.wait()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TAIL))
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        last = "; ".join(line.strip() for line in lines[-3:]) or "it wrote nothing"
        return VestalError(
            f"{self.name}: its process ended with code {code} while {self._waiting}: {last}"
        )
