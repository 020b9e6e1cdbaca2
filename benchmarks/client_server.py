"""A TorchServe for the client's chaos and load: small archives, two workers, ports that stay."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from vestal import Client
from vestal.fleet.server import Server
from vestal.project import Project, ReadyFile

HANDLER = """
import os, time

def handle(data, context):
    if data is None:  # at load
        return None
    if context.get_request_header(0, "describe"):
        return [{"pid": os.getpid()}]
    texts = [bytes(row.get("body") or row.get("data") or b"").decode() for row in data]
    if "die" in texts:
        os._exit(1)
    seconds = [float(text) for text in texts if text]
    if seconds:
        time.sleep(max(seconds))
    return [{"text": text, "version": context.manifest["model"]["modelVersion"]} for text in texts]
"""
NO_OP = """
def handle(data, context):
    return None if data is None else [b"{}"] * len(data)
"""
SETTINGS = """\
enable_model_api=true
decode_input_request=false
disable_system_metrics=true
metrics_mode=prometheus
job_queue_size=1000
token_expiration_min={minutes}
"""


def pack(
    store: Path,
    name: str,
    version: str,
    *,
    workers: int = 1,
    batch: int = 1,
    queue: int = 1000,
    delay: int = 5,
    code: str = HANDLER,
) -> str:
    """Write a plain archive, as torch-model-archiver does; return the name of the file."""
    store.mkdir(parents=True, exist_ok=True)
    manifest = {
        "runtime": "python",
        "archiverVersion": "0.12.0",
        "model": {
            "modelName": name,
            "modelVersion": version,
            "handler": f"{name}_handler.py",
            "configFile": "model-config.yaml",
        },
    }
    config = (
        f"minWorkers: {workers}\nmaxWorkers: {workers}\nbatchSize: {batch}\n"
        f"maxBatchDelay: {delay}\nresponseTimeout: 30\njobQueueSize: {queue}\n"
    )
    file = f"{name}-{version}.mar"
    with zipfile.ZipFile(store / file, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr(f"{name}_handler.py", code)
        archive.writestr("model-config.yaml", config)
    return file


class Torchserve:
    """A project in a temp folder; started, killed and started again on the same ports."""

    def __init__(self, *, token_minutes: int = 60) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vc-"))
        self.project = Project(self.folder / "project")
        self.project.root.mkdir()
        self.project.config.write_text(SETTINGS.format(minutes=token_minutes))
        self.port = consecutive_ports(4)
        self._server: Server | None = None

    def pack(self, name: str, version: str = "1.0", **options: Any) -> str:
        return pack(self.project.model_store, name, version, **options)

    def start(self, models: Sequence[str]) -> ReadyFile:
        """Start TorchServe; return when every model is READY and has sent a response."""
        self._server = Server(self.project, list(models), port=self.port)
        return self._server.__enter__().ready

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def kill(self) -> None:
        """Kill this server's Java with SIGKILL, and clean up what it left."""
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                is_java = "org.pytorch.serve.ModelServer" in process.cmdline()
                if is_java and Path(process.cwd()).is_relative_to(self.folder):
                    process.kill()
        self.stop()

    def client(self, **options: Any) -> Client:
        return Client(**self.addresses(), **options)

    def addresses(self) -> dict[str, Any]:
        """Arguments of a client, in this process or in another."""
        url = "http://127.0.0.1:{}"
        return {
            "url": url.format(self.port),
            "management": url.format(self.port + 1),
            "metrics": url.format(self.port + 2),
            "key_file": str(self.project.key_file),
        }

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def torchserve(*, token_minutes: int = 60) -> Iterator[Torchserve]:
    server = Torchserve(token_minutes=token_minutes)
    try:
        yield server
    finally:
        server.close()


def kill_a_worker(client: Client, model: str) -> int | None:
    """Kill one READY worker; return its process id, None without one."""
    for worker in client.describe(model).ready_workers:
        if worker.pid is not None:
            os.kill(worker.pid, signal.SIGKILL)
            return worker.pid
    return None


def consecutive_ports(count: int) -> int:
    """Return a free port whose successors are free, too: `count` ports altogether.

    They are below those of outgoing connections (32768 and more on Linux), one of which could take
    the port of a server that is down for a moment.
    """
    for first in random.sample(range(20_000, 32_000), 100):
        if all(_free(first + n) for n in range(count)):
            return first
    raise RuntimeError(f"no {count} free ports in a row")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
