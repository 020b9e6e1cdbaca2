"""Archives of handlers without Vestal, a server for them, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving import archive

from vestal import Client
from vestal.fleet.server import Server
from vestal.project import Project, ReadyFile

ECHO = """
import os, secrets, time

WORKER = secrets.token_hex(8)

def handle(data, context):
    if data is None:  # at load
        return None
    if context.get_request_header(0, "describe"):
        raise RuntimeError("no description")
    answers = []
    for index, row in enumerate(data):
        text = bytes(row.get("body") or row.get("data") or b"").decode()
        if text == "die":
            os._exit(1)
        if text == "raise":
            raise RuntimeError("raised on request")
        time.sleep(float(text) if text else 0.2)
        if text == "0":
            context.set_response_status(code=422, phrase="Unprocessable", idx=index)
            answers.append(b"zero is not for this model")
        else:
            answers.append({"version": context.manifest["model"]["modelVersion"], "text": text})
    return answers
"""
DESCRIBED = ECHO.replace('raise RuntimeError("no description")', 'return [{"worker": WORKER}]')
SMALL = "minWorkers: 1\nmaxWorkers: 1\njobQueueSize: 5\n"


@contextmanager
def serve_plain_archives(root: Path) -> Iterator[Project]:
    """A server with `echo` 1.0; its store also has another version and other models."""
    project = Project(root)
    store = project.model_store
    for version in ("1.0", "2.0"):
        archive(store, "echo", ECHO, version)
    archive(store, "described", DESCRIBED)
    archive(store, "small", ECHO, config=SMALL)
    with Server(project, ["echo-1.0.mar"], port=0):
        yield project


def client_of(server: ReadyFile) -> Client:
    return Client(
        server.inference,
        management=server.management,
        metrics=server.metrics,
        key_file=server.key_file,
    )
