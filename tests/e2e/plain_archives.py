"""Archives of handlers without Vestal, made by torch-model-archiver, and a server for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vestal import (
    Client,
)
from vestal.fleet.server import Server
from vestal.project import Project, ReadyFile

ECHO = """
import os, secrets, time

WORKER = secrets.token_hex(8)

def handle(data, context):
    if data is None:  # at load
        return None
    if context.get_request_header(0, "describe"):
        if DESCRIBES_WORKER:
            return [{"worker": WORKER}]
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
BROKEN = """
def handle(data, context):
    raise RuntimeError("never reached")

raise RuntimeError("broken at import")
"""


def write_archive(store: Path, name: str, version: str, handler: str, config: str = "") -> None:
    source = store.parent / name / version
    source.mkdir(parents=True)
    (source / f"{name}_handler.py").write_text(handler)
    (source / "model-config.yaml").write_text(config)
    command: list[str | Path] = [
        Path(sys.executable).with_name("torch-model-archiver"),
        "--model-name",
        name,
    ]
    options: list[str | Path] = ["--version", version, "--handler", source / f"{name}_handler.py"]
    if config:
        options += ["--config-file", source / "model-config.yaml"]
    # torch-model-archiver stages in a temporary folder that only the model's name distinguishes.
    environment = {**os.environ, "TMPDIR": str(source)}
    subprocess.run(
        [*command, *options, "--export-path", source], check=True, env=environment, timeout=60
    )
    (source / f"{name}.mar").rename(store / f"{name}-{version}.mar")


@contextmanager
def plain_server(folder: Path) -> Iterator[ReadyFile]:
    """A server with `echo` 1.0; its store also has other versions and models."""
    project = Project(folder)
    project.model_store.mkdir()
    plain = ECHO.replace("DESCRIBES_WORKER", "False")
    for version in ("1.0", "2.0"):
        write_archive(project.model_store, "echo", version, plain)
    for version in ("1.0", "2.0"):
        write_archive(
            project.model_store, "described", version, ECHO.replace("DESCRIBES_WORKER", "True")
        )
    write_archive(project.model_store, "broken", "1.0", BROKEN)
    small = "minWorkers: 1\nmaxWorkers: 1\njobQueueSize: 5\n"
    write_archive(project.model_store, "small", "1.0", plain, small)
    with Server(project, ["echo-1.0.mar"], port=0) as server:
        yield server.ready


def client_of(server: ReadyFile) -> Client:
    return Client(
        server.inference,
        management=server.management,
        metrics=server.metrics,
        key_file=server.key_file,
    )
