"""A version that fails its verification is removed, and can be registered once it is fixed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import START_SECONDS, archive, until

from vestal import AsyncClient, Client, Conflict, DeadlineExceeded, NotFound, NotReady
from vestal.fleet.server import Server
from vestal.project import Project, ReadyFile
from vestal_handlers import packed_sample

GOOD = """
import json, os, time

def handle(data, context):
    if data is None:  # at load
        return None
    if context.get_request_header(0, "describe"):
        raise RuntimeError("no description")
    PREDICT
    return [json.dumps({"version": "1.0"}).encode() for _ in data]
"""
BAD = {
    "crashes": (GOOD.replace("PREDICT", "os._exit(1)"), "fails its sample input.bin"),
    "raises": (GOOD.replace("PREDICT", "raise ValueError"), "fails its sample input.bin"),
    "wrong": (
        GOOD.replace("PREDICT", 'return [b\'{"version": "0.9"}\']'),
        'answer.version is "0.9", expected "1.0"',
    ),
    "broken": ("raise RuntimeError('broken at import')", "does not load"),
}
GOOD = GOOD.replace("PREDICT", "")
OURS = """
from types import SimpleNamespace
from vestal_handlers.base import BatchHandler

class Handler(BatchHandler):
    def load_engine(self, artifact):
        return SimpleNamespace(describe=dict)
    def example_input(self):
        return None
    def decode(self, instance):
        return None
    def forward(self, samples):
        return samples
    def encode(self, output, instance):
        return {{"label": "{label}"}}
"""
SLOW_TO_LOAD = f"import time\ntime.sleep(600)\n{GOOD}"
SAMPLE = {"content_type": "x/y", "answer": {"version": "1.0"}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A server with `known` 1.0, which no test changes."""
    project = Project(tmp_path_factory.mktemp("verified"))
    archive(project.model_store, "known", GOOD, sample=SAMPLE)
    with Server(project, ["known-1.0.mar"], port=0) as server:
        yield project
        assert server.ready.pid == os.getpid()


@pytest.fixture
def client(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.chdir(project.root)
    with Client(timeout=120) as client:
        yield client


def served(client: Client) -> list[tuple[str, str, bool]]:
    return [(info.name, info.version, info.default) for info in client.models()]


KNOWN = [("known", "1.0", True)]


@pytest.mark.parametrize("name", BAD)
def test_a_first_version_that_fails_is_removed_and_the_next_try_succeeds(
    project: Project, client: Client, name: str
) -> None:
    handler, reason = BAD[name]
    archive(project.model_store, name, handler, sample=SAMPLE)
    with pytest.raises(NotReady, match=reason) as caught:
        client.register(f"{name}-1.0.mar")
    assert f"{name} 1.0 was unregistered again" in str(caught.value)
    assert served(client) == KNOWN
    assert (project.model_store / f"{name}-1.0.mar").exists()
    archive(project.model_store, name, GOOD, sample=SAMPLE)
    assert client.register(f"{name}-1.0.mar").default
    assert client.predict(name, b"x").value == {"version": "1.0"}
    client.unregister(name, "1.0", drain=False)


def test_an_archive_without_a_sample_whose_worker_dies_at_every_request_is_removed(
    project: Project, client: Client
) -> None:
    archive(project.model_store, "dies", "import os\ndef handle(d, c):\n    d and os._exit(1)\n")
    with pytest.raises(NotReady, match="lost 2 processes before its first response"):
        client.register("dies-1.0.mar")
    assert served(client) == KNOWN


def test_a_second_version_that_fails_does_not_change_the_first(
    project: Project, client: Client
) -> None:
    handler, reason = BAD["wrong"]
    archive(project.model_store, "known", handler, version="2.0", sample=SAMPLE)

    async def register() -> None:
        async with AsyncClient(timeout=120) as asynchronous:
            await asynchronous.register("known-2.0.mar")

    with pytest.raises(NotReady, match=reason):
        asyncio.run(register())
    with pytest.raises(Conflict):
        client.register("known-1.0.mar")
    assert served(client) == KNOWN
    assert client.predict("known", b"x").value == {"version": "1.0"}


def test_a_call_that_ends_early_removes_its_version(project: Project, client: Client) -> None:
    archive(project.model_store, "slow", SLOW_TO_LOAD)
    with pytest.raises(DeadlineExceeded, match=r"slow 1\.0 was unregistered again"):
        client.register("slow-1.0.mar", timeout=3)
    assert served(client) == KNOWN

    async def cancelled() -> None:
        async with AsyncClient() as asynchronous:
            task = asyncio.create_task(asynchronous.register("slow-1.0.mar"))
            while len(await asynchronous.models()) == 1:
                await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())
    assert served(client) == KNOWN


@pytest.mark.parametrize("late", [True, False], ids=["registered", "at-once"])
def test_ctrl_c_removes_the_version(project: Project, client: Client, late: bool) -> None:
    archive(project.model_store, "slow", SLOW_TO_LOAD)
    code = (
        "from vestal import Client; client = Client(); print(1, flush=True); "
        "client.register('slow-1.0.mar')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"
    if late:
        until(lambda: len(served(client)) == 2, START_SECONDS, "the registration")
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert served(client) == KNOWN


def vestal_archive(store: Path, label: str) -> None:
    """Create an archive of a Vestal handler that predicts `label`; its sample has label 7."""
    manifest = {"modelName": "ours", "modelVersion": "1.0", "handler": "handler.py"}
    manifest["serializedFile"] = "model.pt"
    # More than fits into one response.
    padding = "x" * (packed_sample.PART_LENGTH + 1000)
    sample = {"input": "input.txt", "content_type": "text/plain", "answer": {"label": "7"}}
    with zipfile.ZipFile(store / "ours-1.0.mar", "w") as content:
        content.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": manifest}))
        content.writestr("handler.py", OURS.format(label=label))
        content.writestr("model.pt", b"")
        content.writestr("sample/sample.json", json.dumps(sample))
        content.writestr("sample/input.txt", padding)


def test_the_sample_of_a_vestal_archive_comes_from_its_handler(
    project: Project, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client on another machine, without access to ready file and store."""
    ready = ReadyFile.read(project.ready_file)
    token = tmp_key_file(project)
    monkeypatch.chdir("/")
    vestal_archive(project.model_store, "8")
    with Client(
        ready.inference, management=ready.management, key_file=token, timeout=120
    ) as remote:
        with pytest.raises(NotReady, match=r'label is "8", expected "7"'):
            remote.register("ours-1.0.mar")
        with pytest.raises(NotFound):
            remote.describe("ours")
        vestal_archive(project.model_store, "7")
        assert remote.register("ours-1.0.mar").default
        remote.unregister("ours", "1.0")


def tmp_key_file(project: Project) -> Path:
    """Copy the keys into a folder without a ready file."""
    folder = project.root / "elsewhere"
    folder.mkdir()
    return Path(shutil.copy(project.key_file, folder))
