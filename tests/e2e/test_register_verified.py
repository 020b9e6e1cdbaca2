"""A version that fails its verification is removed, and can be registered once it is fixed."""

from __future__ import annotations

import asyncio
import json
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
    "unloadable": ("raise RuntimeError('broken at import')", "does not load"),
}
WRONG = GOOD.replace("PREDICT", 'return [b\'{"version": "0.9"}\']')
BAD["wrong"] = WRONG, 'answer.version is "0.9", expected "1.0"'
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


@pytest.fixture
def client(plain_project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client in the server's project; at the end, the server has the same models as before."""
    monkeypatch.chdir(plain_project.root)
    with Client(timeout=120) as client:
        before = served(client)
        yield client
        assert served(client) == before


@pytest.fixture
def store(plain_project: Project) -> Path:
    return plain_project.model_store


def served(client: Client) -> set[tuple[str, str, bool]]:
    return {(info.name, info.version, info.default) for info in client.models()}


@pytest.mark.parametrize(
    "name", ["crashes", "raises", "unloadable", pytest.param("wrong", marks=pytest.mark.slow)]
)
def test_a_first_version_that_fails_is_removed(store: Path, client: Client, name: str) -> None:
    handler, reason = BAD[name]
    archive(store, name, handler, sample=SAMPLE)
    with pytest.raises(NotReady, match=reason) as caught:
        client.register(f"{name}-1.0.mar")
    assert f"{name} 1.0 was unregistered again" in str(caught.value)
    assert not client.ready(name)
    with pytest.raises(NotFound):
        client.predict(name, b"x")
    assert (store / f"{name}-1.0.mar").exists()


@pytest.mark.slow  # test_client_management does it with a fake server
def test_an_archive_without_a_sample_whose_worker_dies_at_every_request_is_removed(
    store: Path, client: Client
) -> None:
    archive(store, "dies", "import os\ndef handle(d, c):\n    d and os._exit(1)\n")
    with pytest.raises(NotReady, match="lost 2 processes before its first response"):
        client.register("dies-1.0.mar")


def test_a_second_version_that_fails_does_not_change_the_first(store: Path, client: Client) -> None:
    archive(store, "echo", WRONG, version="3.0", sample=SAMPLE)

    async def register() -> None:
        async with AsyncClient(timeout=120) as asynchronous:
            await asynchronous.register("echo-3.0.mar")

    before = served(client)
    with pytest.raises(NotReady, match=r'answer\.version is "0\.9", expected "1\.0"'):
        asyncio.run(register())
    assert served(client) == before
    with pytest.raises(Conflict):
        client.register("echo-1.0.mar")
    assert client.predict("echo", b"0.01")["version"] == "1.0"


def test_a_call_that_ends_early_removes_its_version(store: Path, client: Client) -> None:
    archive(store, "slow", SLOW_TO_LOAD)
    before = served(client)
    with pytest.raises(DeadlineExceeded, match=r"slow 1\.0 was unregistered again"):
        client.register("slow-1.0.mar", timeout=3)
    assert served(client) == before

    async def cancelled() -> None:
        async with AsyncClient() as asynchronous:
            task = asyncio.create_task(asynchronous.register("slow-1.0.mar"))
            while len(await asynchronous.models()) == len(before):
                await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())


@pytest.mark.parametrize("late", [True, False], ids=["registered", "at-once"])
def test_ctrl_c_removes_the_version(store: Path, client: Client, late: bool) -> None:
    archive(store, "slow", SLOW_TO_LOAD)
    before = served(client)
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
        until(lambda: served(client) != before, START_SECONDS, "the registration")
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]


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


def test_a_failed_version_is_registered_once_it_is_fixed(
    plain_project: Project, store: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client on another machine, without access to ready file and store.

    The sample comes from the handler.
    """
    ready = ReadyFile.read(plain_project.ready_file)
    token = tmp_key_file(plain_project)
    monkeypatch.chdir("/")
    vestal_archive(store, "8")
    with Client(
        ready.inference, management=ready.management, key_file=token, timeout=120
    ) as remote:
        with pytest.raises(NotReady, match=r'label is "8", expected "7"'):
            remote.register("ours-1.0.mar")
        with pytest.raises(NotFound):
            remote.describe("ours")
        vestal_archive(store, "7")
        assert remote.register("ours-1.0.mar").default
        remote.unregister("ours", "1.0")


def tmp_key_file(project: Project) -> Path:
    """Copy the keys into a folder without a ready file."""
    folder = project.root / "elsewhere"
    folder.mkdir()
    return Path(shutil.copy(project.key_file, folder))
