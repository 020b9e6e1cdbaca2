"""The keeper on a real server: swaps, versions that fail, repairs, changes by other clients."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from serving import ECHO, START_SECONDS, archive, until

from vestal import Client
from vestal.fleet.desired import Desired, ModelTarget, SwapPolicy, Workers
from vestal.fleet.resolving import version_target
from vestal.fleet.server import Server
from vestal.fleet.status import Revision, Source
from vestal.project import Project

TEST = Source(command="test", user="pytest")


class Served:
    """A server with `echo` 1.0, and changes of what is desired."""

    def __init__(self, server: Server, project: Project, client: Client) -> None:
        self.server, self.project, self.client = server, project, client
        self.keeper = server.keeper

    def pack(self, version: str, handler: str = ECHO, answer: str | None = None) -> None:
        answer = answer or version
        sample = {"content_type": "x/y", "answer": {"length": 4, "version": answer}}
        archive(self.project.model_store, "echo", handler, version, sample)

    def swap(self, version: str, **policy: Any) -> Revision:
        """Desire this version alone, and return the revision with its outcome."""
        policy = {"ready_seconds": START_SECONDS, "settle_seconds": 2, **policy}
        file = self.project.model_store / f"echo-{version}.mar"
        target = ModelTarget(
            default=version,
            versions={version: version_target(file)},
            swap=SwapPolicy(**policy),
        )
        return self.apply(self.keeper.desired().models | {"echo": target})

    def apply(self, models: dict[str, ModelTarget]) -> Revision:
        number = self.keeper.apply(Desired(models=models), TEST).number
        return until(lambda: self._finished(number), START_SECONDS, "an outcome")

    def _finished(self, number: int) -> Revision | None:
        found = next(each for each in self.keeper.revisions() if each.number == number)
        return found if found.outcome else None

    def versions(self) -> list[tuple[str, bool]]:
        return [(i.version, i.default) for i in self.client.models() if i.name == "echo"]


class Stream(threading.Thread):
    """Sends requests one after the other, and collects the versions that respond."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client, self._ended = client, threading.Event()
        self.versions: list[str] = []
        self.errors: list[Exception] = []

    def run(self) -> None:
        while not self._ended.wait(0.02):
            try:
                self.versions.append(self._client.predict("echo", b"x")["version"])
            except Exception as error:
                self.errors.append(error)

    def __enter__(self) -> Stream:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def client_of(server: Server, **options: Any) -> Client:
    ready = server.ready
    return Client(ready.inference, management=ready.management, key_file=ready.key_file, **options)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    project = Project(tmp_path_factory.mktemp("kept"))
    sample = {"content_type": "x/y", "answer": {"length": 4, "version": "1.0"}}
    archive(project.model_store, "echo", sample=sample)
    with Server(project, ["echo-1.0.mar"], port=0) as server, client_of(server) as client:
        yield Served(server, project, client)


RAISES = f"raise ValueError('the weights are for another model')\n{ECHO}"
DIES = ECHO.replace("    version =", "    import os; os._exit(1)\n    version =")
SLOW = f"import time; time.sleep(600)\n{ECHO}"
BAD = {
    "does not load": (RAISES, {}, r"did not load: ValueError: the weights are for another model"),
    "crashes": (DIES, {}, r"echo 9\.0 fails its sample input\.bin: .*Worker died"),
    "answers wrongly": (ECHO.replace("len(body)", "9"), {}, r"answer\.length is 9, expected 4"),
    "is never ready": (SLOW, {"ready_seconds": 3}, r"0 of 1 workers are READY after \d+ s"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_version_that_fails_is_rejected_and_the_old_one_is_untouched(
    served: Served, name: str
) -> None:
    handler, policy, reason = BAD[name]
    before, pid = served.versions(), served.client.describe("echo").workers[0].pid
    (served.project.model_store / "echo-9.0.mar").unlink(missing_ok=True)
    served.pack("9.0", handler)
    with client_of(served.server, retries=0) as caller, Stream(caller) as stream:
        revision = served.swap("9.0", **policy)
    assert revision.outcome == "failed"
    assert revision.reason is not None
    assert re.search(reason, revision.reason), revision.reason
    assert "\n" not in revision.reason
    assert served.versions() == before
    assert served.client.describe("echo").workers[0].pid == pid
    assert stream.errors == []
    assert served.keeper.ready() == (True, [])


def test_a_swap_under_a_stream_of_requests_loses_none(served: Served) -> None:
    served.pack("2.0")
    with client_of(served.server, retries=0) as caller, Stream(caller) as stream:
        assert served.swap("2.0").outcome == "done"
        count = len(stream.versions)
        until(lambda: len(stream.versions) > count + 5, START_SECONDS, "more responses")
    assert stream.errors == []
    assert set(stream.versions) == {"1.0", "2.0"}
    assert stream.versions == sorted(stream.versions)
    assert served.versions() == [("2.0", True)]
    assert served.keeper.plan(served.keeper.desired()).steps == []


def test_a_version_has_all_its_workers_before_it_serves(served: Served) -> None:
    """Although `minWorkers` of its model-config.yaml is 1."""
    served.pack("2.1")
    file = served.project.model_store / "echo-2.1.mar"
    target = version_target(file).model_copy(update={"workers": Workers(min=2, max=2)})
    swap = SwapPolicy(settle_seconds=0)
    model = ModelTarget(default="2.1", versions={"2.1": target}, swap=swap)
    assert served.apply(served.keeper.desired().models | {"echo": model}).outcome == "done"
    texts = [each.text for each in served.keeper.events(0, 0) if each.version == "2.1"]
    assert "echo 2.1: 2 workers are READY" in texts
    assert not any("scaling" in text for text in texts)


def test_a_known_version_with_other_bytes_is_refused_with_both_digests(served: Served) -> None:
    (default,) = [version for version, _ in served.versions()]
    desired = served.keeper.desired().models["echo"].versions[default]
    file = served.project.model_store / f"echo-{default}.mar"
    content = file.read_bytes()
    try:
        served.pack(default, ECHO + "\n# other bytes\n")
        revision = served.swap(default)
        other = version_target(file).sha256
    finally:
        file.write_bytes(content)
    assert revision.outcome == "failed"
    assert revision.reason is not None
    assert desired.sha256 in revision.reason
    assert other in revision.reason
    assert served.versions() == [(default, True)]
    assert served.swap(default).outcome == "done"


def test_changes_of_other_clients_are_adopted(served: Served) -> None:
    served.pack("5.0")
    (before,) = [version for version, _ in served.versions()]

    def desired() -> tuple[str, set[str]]:
        target = served.keeper.desired().models["echo"]
        return target.default, set(target.versions)

    served.client.register("echo-5.0.mar", timeout=START_SECONDS)
    until(lambda: desired() == (before, {before, "5.0"}), START_SECONDS, "the registration")
    served.client.set_default("echo", "5.0")
    until(lambda: desired()[0] == "5.0", START_SECONDS, "the new default")
    served.client.unregister("echo", before)
    until(lambda: desired() == ("5.0", {"5.0"}), START_SECONDS, "the removal")
    assert served.versions() == [("5.0", True)]


@pytest.mark.slow
def test_workers_that_torchserve_has_given_up_are_started_again(
    served: Served, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    handler = f"import pathlib\nif pathlib.Path({str(flag)!r}).exists(): raise ValueError()\n{ECHO}"
    archive(served.project.model_store, "fragile", handler, config="maxRetryTimeoutInSec: 1\n")
    target = ModelTarget(
        default="1.0",
        versions={"1.0": version_target(served.project.model_store / "fragile-1.0.mar")},
        swap=SwapPolicy(ready_seconds=START_SECONDS),
    )
    models = dict(served.keeper.desired().models)
    assert served.apply(models | {"fragile": target}).outcome == "done"
    (worker,) = served.client.describe("fragile").workers
    assert worker.pid is not None
    flag.touch()
    psutil.Process(worker.pid).kill()
    until(lambda: served.server.keeper.logs.workers_given_up(), START_SECONDS, "the last retry")
    flag.unlink()
    assert until(lambda: served.client.describe("fragile").ready, START_SECONDS, "another worker")
    assert served.apply(models).outcome == "done"
    assert {info.name for info in served.client.models()} == {"echo"}


def test_models_are_restored_after_torchserve_was_killed(served: Served) -> None:
    before = served.versions()
    java = next(
        each
        for each in psutil.Process(os.getpid()).children(recursive=True)
        if "org.pytorch.serve.ModelServer" in each.cmdline()
        and each.cwd() == str(served.project.state.resolve())  # other tests have servers, too
    )
    java.kill()
    until(lambda: not served.keeper.ready()[0], START_SECONDS, "the end of TorchServe")
    until(lambda: served.keeper.ready() == (True, []), START_SECONDS, "the models")
    until(served.project.ready_file.exists, START_SECONDS, "the ready file")
    assert served.versions() == before
    assert served.client.predict("echo", b"four")["length"] == 4
    assert served.keeper.status().torchserve_restarts == 1
