"""The child process that holds one archive: `python -m vestal.inprocess.child SETTINGS`.

A process has one `vestal_handlers`; here it is the copy in the archive. The first line on stdout is
`{"loaded": true}`, or `{"failed": {"kind": ..., "reason": ..., "message": ...}}`. Then each line on
stdin is a request, and a line on stdout its response:

    {"body": base64, "content_type": "image/png", "headers": {...}}
    {"status": 200, "headers": {...}, "body": base64, "reached": true, "seconds": 0.012}
"""

from __future__ import annotations

import base64
import json
import os
import resource
import sys
from pathlib import Path
from typing import IO, Any

from vestal.children import end_with_parent


class Channel:
    """The pipes to the parent process, which the code that runs here does not see.

    What that code prints goes to stderr, and its stdin is empty.
    """

    def __init__(self) -> None:
        self._output = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self.lines: IO[str] = os.fdopen(os.dup(0), encoding="utf-8")
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)

    def write(self, **facts: Any) -> None:
        self._output.write(json.dumps(facts) + "\n")
        self._output.flush()


def main(settings: dict[str, Any]) -> None:
    channel = Channel()
    if settings["memory"] is not None:
        limit_memory(settings["memory"])
    from vestal.inprocess.frontend import Frontend
    from vestal.inprocess.loaded_archive import LoadedArchive

    folder, decode = Path(settings["folder"]), settings["decode"]
    os.chdir(folder)  # as in a worker; Vestal's own modules are imported already
    try:
        loaded = LoadedArchive(folder, settings["batch_size"], decode=decode)
    except Exception as error:
        cause = error.__cause__ or error
        failed = {"kind": type(cause).__name__, "reason": str(cause), "message": str(error)}
        channel.write(failed=failed)
        return
    with loaded:
        channel.write(loaded=True)
        serve(loaded, Frontend(settings["max_request_size"], decode), channel)


def serve(loaded: Any, frontend: Any, channel: Channel) -> None:
    """Response requests until the parent closes the pipe."""
    from vestal.inprocess.frontend import RawRequest

    for line in channel.lines:
        message = json.loads(line)
        body = base64.b64decode(message["body"])
        request = RawRequest("", body, message["content_type"], message["headers"])
        (batch,) = frontend.predict(loaded, [request])
        (response,) = batch.responses
        channel.write(
            status=response.status,
            headers=response.headers,
            body=base64.b64encode(response.body).decode(),
            reached=response.reached,
            seconds=batch.times.total if batch.times else None,
        )


def limit_memory(size: int) -> None:
    """Limit what this process may allocate, in bytes; a lower limit of the shell remains.

    RLIMIT_DATA counts what is allocated: 0.9 GB once torch is imported. RLIMIT_AS would count
    3.4 GB of mapped libraries, too.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    end_with_parent()
    main(json.loads(sys.argv[1]))
