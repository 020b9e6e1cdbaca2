"""Checks of an archive before TorchServe gets it, and probes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_server_spec import archive

from vestal.fleet.desired import Probe
from vestal.fleet.failures import VersionFailed
from vestal.fleet.loading import check_archive
from vestal.fleet.steps import Register
from vestal.fleet.verifying import ProbeSample
from vestal.mar.index import sha256_of


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
        check_archive(step, tmp_path, thorough=False)
    assert desired in caught.value.reason
    assert found in caught.value.reason


def test_a_missing_archive_is_refused(tmp_path: Path) -> None:
    step = Register("one", "1.0", "", archive="one.mar", sha256="a" * 64)
    with pytest.raises(VersionFailed, match="No such file"):
        check_archive(step, tmp_path, thorough=False)
