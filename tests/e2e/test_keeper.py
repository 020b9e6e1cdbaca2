"""The keeper on a real server: swaps, repairs, changes by other clients."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from kept import TEST, Served, Stream, client_of, keeping
from serving import ECHO, START_SECONDS, archive, until

from vestal.fleet.desired import Desired, ModelTarget, SwapPolicy, Workers
from vestal.fleet.resolving import version_target
from vestal_handlers.threads import WORKERS_VARIABLE


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with keeping(tmp_path_factory.mktemp("kept")) as served:
        yield served


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
    # They share the cores: each of them reads how many they are.
    counts = served.project.worker_counts
    assert json.loads(counts.read_text())["echo"] == {"2.1": 2}
    workers = served.client.describe("echo").workers
    environments = [psutil.Process(worker.pid).environ() for worker in workers]
    assert [each[WORKERS_VARIABLE] for each in environments] == [str(counts)] * 2


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


WAITS = "import pathlib, time\n" + ECHO.replace(
    "    return [json",
    """    while b"wait" in bodies and not pathlib.Path({flag!r}).exists():
        time.sleep(0.05)
    return [json""",
)


@pytest.mark.slow
def test_a_rollback_while_the_old_version_is_drained_takes_effect_at_once(
    served: Served, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    served.pack("6.0", WAITS.replace("{flag!r}", repr(str(flag))))
    served.pack("7.0")
    assert served.swap("6.0").outcome == "done"
    with (
        client_of(served.server, retries=0, hedge=False) as caller,
        ThreadPoolExecutor() as threads,
    ):
        slow = threads.submit(caller.predict, "echo", b"wait", timeout=START_SECONDS)
        desired = served.keeper.desired()
        served.keeper.apply(Desired(models=served.models("7.0")), TEST)
        until(lambda: served.started("remove"), START_SECONDS, "the drain of 6.0")
        assert ("6.0", False) in served.versions()
        served.keeper.rollback("echo", TEST)
        until(lambda: ("6.0", True) in served.versions(), START_SECONDS, "the rollback")
        assert not slow.done()
        flag.touch()
        assert slow.result()["version"] == "6.0"
    assert served.keeper.desired() == desired
    until(lambda: served.versions() == [("6.0", True)], START_SECONDS, "the removal of 7.0")


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


def java_of(served: Served) -> psutil.Process:
    return next(
        each
        for each in psutil.Process(os.getpid()).children(recursive=True)
        if "org.pytorch.serve.ModelServer" in each.cmdline()
        and each.cwd() == str(served.project.state.resolve())  # other tests have servers, too
    )


def test_models_are_restored_after_torchserve_was_killed(served: Served) -> None:
    before = served.versions()
    java_of(served).kill()
    until(lambda: not served.keeper.ready()[0], START_SECONDS, "the end of TorchServe")
    until(lambda: served.keeper.ready() == (True, []), START_SECONDS, "the models")
    until(served.project.ready_file.exists, START_SECONDS, "the ready file")
    assert served.versions() == before
    assert served.client.predict("echo", b"four")["length"] == 4
    assert served.keeper.status().torchserve_restarts == 1


@pytest.mark.slow
def test_a_version_is_not_rejected_because_torchserve_ends_while_it_is_verified(
    served: Served,
) -> None:
    served.pack(
        "2.2", ECHO.replace("    version =", "    import time; time.sleep(2)\n    version =")
    )
    java = java_of(served)
    number = served.keeper.apply(
        Desired(models=served.models("2.2", settle_seconds=0)), TEST
    ).number
    until(lambda: served.started("verify"), START_SECONDS, "the verification")
    time.sleep(0.5)  # its sample is with the worker
    java.kill()
    assert served.outcome(number).outcome == "done"
    assert served.versions() == [("2.2", True)]
