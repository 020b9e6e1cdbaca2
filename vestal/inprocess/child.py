"""A process that holds one archive: `python -m vestal.inprocess.child FOLDER`.

In one process there is one `vestal_handlers`; in a process of its own each archive uses the copy
that it carries. A line of JSON in is a request, a line out its answer:

    {"body": base64, "content_type": "image/png", "headers": {...}}
    {"status": 200, "headers": {...}, "body": base64, "reached": true, "seconds": 0.012}

The first line out says {"name": ..., "version": ...}, or {"failed": text} where it does not load.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from vestal.children import end_with_parent


def main(folder: Path, decode: bool, max_request_size: int) -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    # What a handler prints must not come between the answers, nor may it read the requests.
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    from vestal.inprocess.frontend import Frontend
    from vestal.inprocess.loaded_archive import LoadedArchive

    os.chdir(folder)  # a worker's, for its whole life; now that all of ours is imported
    try:
        loaded = LoadedArchive(folder, batch_size=1, decode=decode)
    except Exception as error:
        _say(channel, failed=str(error))
        return
    with loaded:
        _say(channel, name=loaded.name, version=loaded.version)
        _serve(loaded, Frontend(max_request_size, decode), questions, channel)


def _serve(loaded: Any, frontend: Any, questions: IO[str], channel: IO[str]) -> None:
    from vestal.inprocess.frontend import Sent

    for line in questions:
        asked = json.loads(line)
        body = base64.b64decode(asked["body"])
        (batch,) = frontend.ask(loaded, [Sent("", body, asked["content_type"], asked["headers"])])
        (answer,) = batch.answers
        _say(
            channel,
            status=answer.status,
            headers=answer.headers,
            body=base64.b64encode(answer.body).decode(),
            reached=answer.reached,
            seconds=batch.times.total if batch.times else None,
        )


def _say(channel: IO[str], **facts: Any) -> None:
    channel.write(json.dumps(facts) + "\n")
    channel.flush()


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]).absolute(), sys.argv[2] == "decode", int(sys.argv[3]))
