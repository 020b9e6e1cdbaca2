"""Checks of an archive before TorchServe gets it, and probes."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_server_spec import archive

from vestal.fleet.desired import Probe
from vestal.fleet.failures import VersionFailed
from vestal.fleet.loading import Loading, check_archive, wait_until_loaded
from vestal.fleet.steps import Register
from vestal.fleet.verifying import ProbeSample
from vestal.mar.index import sha256_of
from vestal.server.logs import Logs


@pytest.mark.parametrize(
    ("expect", "answer", "difference"),
    [
        ({"label": "7"}, {"label": "7", "top": [1, 2]}, None),
        ({"top": [{"p": 0.9}]}, {"top": [{"p": 0.90001, "label": "7"}]}, None),
        ({"label": "7"}, {"top": []}, "answer has no 'label'"),
        ({"label": "7"}, {"label": "1"}, 'answer.label is "1", expected "7"'),
        ([1, 2], [1], "answer has 1 items, expected 2"),
        (None, {"anything": True}, None),
    ],
)
def test_a_probe_compares_only_the_keys_that_it_gives(
    expect: Any, answer: Any, difference: str | None
) -> None:
    probe = Probe.of("seven.png", b"pixels", "image/png", expect)
    sample = ProbeSample.of(probe)
    assert sample.input == b"pixels"
    assert sample.difference(answer) == difference


def test_an_archive_that_has_changed_is_refused_with_both_digests(tmp_path: Path) -> None:
    file = archive(tmp_path, "one.mar")
    desired, found = "a" * 64, sha256_of(file)
    step = Register("one", "1.0", "", archive="one.mar", sha256=desired)
    with pytest.raises(VersionFailed) as caught:
        check_archive(step, tmp_path)
    assert desired in caught.value.reason
    assert found in caught.value.reason


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    step = Register("one", "1.0", "", archive="one.mar", sha256="a" * 64)
    with pytest.raises(VersionFailed, match="No such file"):
        check_archive(step, tmp_path)


class ReadyVersion:
    """A client for which net 1.0 has one READY worker."""

    def describe(self, *_: object, **__: object) -> Any:
        worker = SimpleNamespace(id="9000")
        return SimpleNamespace(workers=[worker], ready_workers=[worker], min_workers=1)


def loading(folder: Path, deaths: int, *output: str) -> Loading:
    """The version's worker has died so often, and has printed this before."""
    time = "2026-11-26T19:00:00,000"
    retry = f"{time} [INFO ] W-9000-net_1.0 org.pytorch.serve.wlm.WorkerThread - Retry worker: 9000"
    (folder / "ts_log.log").write_text(f"{retry}\n" * deaths)
    lines = [f"{time} [INFO ] W-9000-net_1.0-stdout MODEL_LOG - {line}\n" for line in output]
    (folder / "model_log.log").write_text("".join(lines))
    client: Any = ReadyVersion()
    return Loading(client, "net", "1.0", Logs(folder, 0), 0, math.inf, lambda: None)


def test_a_worker_that_was_killed_once_may_load_at_the_next_attempt(tmp_path: Path) -> None:
    description = wait_until_loaded(loading(tmp_path, 1, "loading the weights"))
    assert description.ready_workers


@pytest.mark.parametrize(
    ("deaths", "output", "reason"),
    [
        (2, ["loading the weights"], "ended without an exception"),
        (1, ["Traceback (most recent call last):", "  File x", "ValueError: no weights"], "no wei"),
    ],
)
def test_a_worker_that_dies_again_or_with_an_exception_is_at_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaths: int, output: list[str], reason: str
) -> None:
    monkeypatch.setattr("vestal.fleet.loading._LOG_DELAY_SECONDS", 0.0)
    with pytest.raises(VersionFailed, match=reason):
        wait_until_loaded(loading(tmp_path, deaths, *output))
