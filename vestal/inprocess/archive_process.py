"""An archive that is loaded in a child process (see `vestal.inprocess.child`)."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.inprocess.child_process import ChildProcess
from vestal.inprocess.frontend import Frontend, RawRequest
from vestal.inprocess.messages import Response

SECONDS = 300.0


class LoadFailed(VestalError):
    """The handler raised an error while it was loaded.

    Attributes:
        kind: name of the error's class.
        reason: its message.
    """

    def __init__(self, name: str, failed: dict[str, str]) -> None:
        super().__init__(f"{name}: {failed['message']}")
        self.kind, self.reason = failed["kind"], failed["reason"]


class ArchiveProcess(ChildProcess):
    """Starts to load an unpacked archive.

    Args:
        name: for messages.
        batch_size: what the handler warms up for; None: the one in model-config.yaml.
        seconds: time limit for loading, and for each request.
        memory: bytes that the process may allocate, about 900 MB of them for torch itself.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        frontend: Frontend,
        *,
        batch_size: int | None = 1,
        seconds: float = SECONDS,
        memory: int | None = None,
    ) -> None:
        settings = {
            "folder": str(folder.absolute()),
            "decode": frontend.decode,
            "max_request_size": frontend.max_request_size,
            "batch_size": batch_size,
            "memory": memory,
        }
        self._seconds = seconds
        super().__init__(name, "vestal.inprocess.child", json.dumps(settings))

    def wait_until_loaded(self) -> None:
        """Wait for the end of loading; several archives can load at the same time.

        Raises:
            LoadFailed: the handler does not load.
            ChildTimeout, ChildDied: loading did not end.
        """
        reply = self.exchange(b"", "loading", self._seconds)
        if "failed" in reply:
            self.check_disk(reply["failed"]["reason"])
            raise LoadFailed(self.name, reply["failed"])

    def predict(
        self, request: RawRequest, seconds: float | None = None
    ) -> tuple[Response, float | None]:
        """Return the response, and the seconds in the handler; None if it was not reached.

        Raises:
            ChildTimeout, ChildDied: there is no response.
        """
        message = {
            "body": base64.b64encode(request.body).decode(),
            "content_type": request.content_type,
            "headers": dict(request.headers),
        }
        line = json.dumps(message).encode() + b"\n"
        limit = self._seconds if seconds is None else seconds
        reply: dict[str, Any] = self.exchange(line, f"answering {request.name}", limit)
        body = base64.b64decode(reply["body"])
        response = Response(reply["status"], reply["headers"], body, reply["reached"])
        return response, reply["seconds"]
