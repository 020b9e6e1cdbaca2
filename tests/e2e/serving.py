"""Servers for tests: small archives, and `vestal serve` as users start it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import requests

from vestal.configuration.ports import free_ports
from vestal.project import Project, ReadyFile

START_SECONDS = 240  # seven workers import torch on two cores
END_SECONDS = 20

ECHO = """
import json

def handle(data, context):
    if data is None:  # TorchServe initializes a function with this call
        return None
    version = context.manifest["model"]["modelVersion"]
    bodies = [bytes(row.get("body") or row.get("data") or b"") for row in data]
    return [json.dumps({"length": len(body), "version": version}).encode() for body in bodies]
"""

RAISES_AT_LOAD = """
class Handler:
    def initialize(self, context):
        raise ValueError("the weights are for another model")

    def handle(self, data, context):
        return data
"""

NO_TORCH = """
import sys
import types

sys.modules["torch"] = torch = types.ModuleType("torch")
torch.Tensor = type("Tensor", (), {})
"""
"""A sitecustomize.py for handlers without torch, which TorchServe imports to compare types."""


def archive(
    store: Path,
    name: str,
    handler: str = ECHO,
    version: str = "1.0",
    sample: Any = None,
    beside: Mapping[str, str] | None = None,
    config: str | None = None,
    torch: bool = False,
) -> Path:
    """Create an archive with torch-model-archiver.

    Its workers do not import torch, so they start in a tenth of the CPU time.

    Args:
        sample: added as Vestal packs it.
        beside: texts of extra files, by name.
        config: text of model-config.yaml.
        torch: whether the handler uses torch, so that the workers do import it.
    """
    files = dict(beside or {}) if torch else {"sitecustomize.py": NO_TORCH, **(beside or {})}
    store.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{name}_handler.py"
        source.write_text(handler)
        for file, text in files.items():
            (Path(folder) / file).write_text(text)
        settings = Path(folder) / "model-config.yaml"
        settings.write_text(config or "")
        extra = ",".join(f"{folder}/{file}" for file in files)
        subprocess.run(
            [
                str(Path(sys.executable).with_name("torch-model-archiver")),
                *("--model-name", name, "--version", version),
                *("--handler", str(source), "--export-path", folder),
                *(("--extra-files", extra) if extra else ()),
                *(("--config-file", str(settings)) if config else ()),
            ],
            check=True,
            env={**os.environ, "TMPDIR": folder},  # it deletes <tmp>/<name>
        )
        made = store / f"{name}-{version}.mar"
        shutil.move(f"{folder}/{name}.mar", made)
    if sample is not None:
        with zipfile.ZipFile(made, "a") as content:
            content.writestr("sample/sample.json", json.dumps({"input": "input.bin", **sample}))
            content.writestr("sample/input.bin", b"four")
    return made


def damaged_archive(store: Path, name: str) -> Path:
    """Create an archive whose handler cannot be unpacked."""
    broken = archive(store, name)
    content = broken.read_bytes()
    middle = content.index(f"{name}_handler.py".encode()) + 40  # in the compressed handler
    broken.write_bytes(content[:middle] + b"\xff" * 20 + content[middle + 20 :])
    return broken


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait until a condition is true and return its value; fail at the time limit."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.05)
    return value


class Serving:
    """A project with its own temp folder, and the `vestal serve` in it."""

    def __init__(self, root: Path, temp: Path) -> None:
        self.project = Project(root)
        self.temp = temp
        self._process: subprocess.Popen[bytes] | None = None
        root.mkdir(exist_ok=True)

    def start(self, *arguments: str) -> None:
        """Start `vestal serve`, without waiting for it."""
        self.run(sys.executable, "-m", "vestal", "serve", *arguments)

    def run(self, *command: str) -> None:
        with self._file("out").open("wb") as out, self._file("err").open("wb") as err:
            self._process = subprocess.Popen(
                command,
                cwd=self.project.root,
                stdout=out,
                stderr=err,
                env={**os.environ, "TMPDIR": str(self.temp), "TEMP": str(self.temp)},
            )

    def ready(self) -> ReadyFile:
        """Wait for the ready file and read it."""
        until(
            lambda: self.project.ready_file.exists() or self._ended(), START_SECONDS, "ready file"
        )
        assert not self._ended(), self.err
        return ReadyFile.read(self.project.ready_file)

    def exit_code(self, seconds: float = START_SECONDS) -> int:
        """Wait for the end of the command."""
        assert self._process is not None
        return self._process.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def out(self) -> str:
        return self._file("out").read_text()

    @property
    def err(self) -> str:
        return self._file("err").read_text()

    def processes(self, argument: str = "") -> list[psutil.Process]:
        """Find guardian, Java and workers by the temp folder in their command lines."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if str(self.temp) in line and argument in line:
                    found.append(process)
        return found

    def java(self) -> psutil.Process:
        return until(lambda: self.processes("ModelServer"), START_SECONDS, "Java")[0]

    def assert_nothing_left(self) -> None:
        """Check that only logs and state are left: no process, socket, temp folder, key, token."""
        until(lambda: not self.processes(), END_SECONDS, "the end of every process")
        with contextlib.suppress(AssertionError):
            until(lambda: not list(self.temp.iterdir()), END_SECONDS, "an empty temp folder")
        assert not list(self.temp.rglob("*"))
        assert {path.name for path in self.project.state.iterdir()} <= {"logs", "state"}

    def token(self, kind: str = "inference") -> dict[str, str]:
        keys = json.loads(self.project.key_file.read_text())
        return {"Authorization": f"Bearer {keys[kind]['key']}"}

    def close(self) -> None:
        if self._process is not None and not self._ended():
            self.signal(signal.SIGTERM)
            self.exit_code(END_SECONDS)

    def _ended(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None

    def _file(self, name: str) -> Path:
        return self.project.root / f"{name}.txt"


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Serving]:
    """Create a project; its temp folder has a short name, because of the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="vt-") as temp:
        server = Serving(root, Path(temp))
        try:
            yield server
        finally:
            server.close()


@contextlib.contextmanager
def plain_torchserve(root: Path, store: Path, *models: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a `torchserve` with default settings except the ports, in a Python without Vestal.

    Yields its inference address and the headers of a caller when every worker is READY.
    """
    with serving(root) as plain:
        ports = free_ports("127.0.0.1", 5)
        names = ("inference_address", "management_address", "metrics_address")
        lines = [f"{n}=http://127.0.0.1:{p}" for n, p in zip(names, ports[:3], strict=True)]
        lines += [f"grpc_inference_port={ports[3]}", f"grpc_management_port={ports[4]}"]
        (plain.project.root / "ports.properties").write_text("\n".join(lines))
        path = f"{python_without_vestal(root).parent}{os.pathsep}{os.environ['PATH']}"
        plain.run(
            *("env", "-u", "PYTHONPATH", f"PATH={path}"),
            str(Path(sys.executable).with_name("torchserve")),
            *("--start", "--foreground", "--ts-config", "ports.properties", "--ncs"),
            *("--model-store", str(store), "--models", *models),
        )
        java = plain.java()
        try:
            file = plain.project.root / "key_file.json"
            until(file.exists, START_SECONDS, "the key file")
            keys = json.loads(until(file.read_text, START_SECONDS, "the keys"))
            caller, manager = (
                {"Authorization": f"Bearer {keys[kind]['key']}"}
                for kind in ("inference", "management")
            )

            def loaded() -> bool:
                try:
                    for model in models:
                        name = model.partition("=")[0]
                        described = requests.get(
                            f"http://127.0.0.1:{ports[1]}/models/{name}", headers=manager, timeout=5
                        ).json()
                        if any(w["status"] != "READY" for w in described[0]["workers"]):
                            return False
                except (OSError, ValueError, KeyError, requests.RequestException):
                    return False
                return True

            until(loaded, START_SECONDS, "READY workers")
            yield f"http://127.0.0.1:{ports[0]}", caller
        finally:
            java.send_signal(signal.SIGTERM)
            plain.exit_code(END_SECONDS)


def python_without_vestal(root: Path) -> Path:
    """Create a `python` with all installed packages except Vestal: it reads no .pth file."""
    python = root / "bin" / "python"
    if not python.exists():
        python.parent.mkdir(parents=True)
        site = Path(requests.__file__).parents[1]
        python.write_text(
            f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH:{site}" exec {sys.executable} -S "$@"\n'
        )
        python.chmod(0o755)
    return python
