"""Archives and inputs that serving.yaml names are found, or reported with their line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from resolving_store import archive
from resolving_store import refuse as refuse
from resolving_store import resolved as resolved
from resolving_store import store as store

from vestal.errors import VestalError
from vestal.fleet.desired import Desired, SwapPolicy, Workers
from vestal.fleet.resolving import default_desired, version_target
from vestal.mar.index import sha256_of
from vestal.server.spec import ModelSpec


def test_archives_are_found_by_their_manifests(
    resolved: Callable[[str], Desired], store: Path
) -> None:
    models = resolved(
        """models:
  mnist: {version: "1.0", workers: 2, also: ["2.0"], memory_limit: 1GB}
  lenet5: {version: "7", required: false}
"""
    ).models
    mnist = models["mnist"]
    assert (mnist.default, list(mnist.versions)) == ("1.0", ["1.0", "2.0"])
    assert mnist.versions["1.0"].archive == "mnist-1.0.mar"
    assert mnist.versions["1.0"].sha256 == sha256_of(store / "mnist-1.0.mar")
    assert mnist.versions["1.0"].workers == Workers(min=2, max=2)
    assert mnist.versions["1.0"].memory_limit == 10**9
    assert models["lenet5"].versions["7"].archive == "from-a-colleague.mar"
    assert (mnist.required, models["lenet5"].required) == (True, False)


def test_without_workers_in_the_file_those_of_the_archive_apply(
    resolved: Callable[[str], Desired],
) -> None:
    versions = resolved('models: {mnist: {version: "1.0", also: ["2.0"]}}').models["mnist"].versions
    assert versions["1.0"].workers == Workers(min=1, max=1)
    assert versions["2.0"].workers == Workers(min=2, max=3)


@pytest.mark.parametrize(
    "config", ["minWorkers: 2", "minWorkers: 3\nmaxWorkers: 2", "minWorkers: 0\nmaxWorkers: 2", ""]
)
def test_numbers_of_workers_that_torchserve_ignores_do_not_count(
    tmp_path: Path, config: str
) -> None:
    assert version_target(archive(tmp_path, "m.mar", "m", "1", config)).workers == Workers()


def test_an_archive_may_be_served_under_another_name(resolved: Callable[[str], Desired]) -> None:
    text = 'models: {digits: {version: "2.0", archive: mnist-2.0}}'
    assert resolved(text).models["digits"].versions["2.0"].archive == "mnist-2.0.mar"


def test_probes_contain_their_inputs(resolved: Callable[[str], Desired], tmp_path: Path) -> None:
    (tmp_path / "7.png").write_bytes(b"\x89PNG")
    (tmp_path / "row").write_bytes(b"")
    [first, second] = (
        resolved(
            """models:
  mnist:
    version: "1.0"
    probe:
      - {input: 7.png, expect: {label: "7"}}
      - {input: row, content_type: text/csv}
"""
        )
        .models["mnist"]
        .probes
    )
    assert (first.name, first.body, first.content_type) == ("7.png", b"\x89PNG", "image/png")
    assert (first.expect, second.expect) == ({"label": "7"}, None)
    assert (second.body, second.content_type) == (b"", "text/csv")


def test_limits_are_the_policy_of_the_swap(resolved: Callable[[str], Desired]) -> None:
    assert resolved('models: {mnist: {version: "1.0"}}').models["mnist"].swap == SwapPolicy()
    text = """models:
  mnist:
    {version: "1.0", settle_time: 5, ready_timeout: 1m, max_error_rate: 2%,
     max_latency_ratio: 3, keep_previous: forever}
"""
    assert resolved(text).models["mnist"].swap == SwapPolicy(
        ready_seconds=60,
        settle_seconds=5,
        max_error_rate=0.02,
        max_latency_ratio=3,
        keep_previous_seconds=None,
    )


def test_what_is_missing_is_listed_with_its_line_and_what_there_is(
    refuse: Callable[[str], list[str]], store: Path, tmp_path: Path
) -> None:
    (store / "broken.mar").write_bytes(b"not a zip")
    (tmp_path / "folder").mkdir()
    assert refuse(
        """models:
  mnist:
    version: "2.00"
    probe: [{input: gone.png}, {input: folder}]
  mnits:
    version: "1.0"
  digits:
    version: "2.0"
    archive: mnist-2
  lenet5:
    version: "8"
    archive: from-a-colleague.mar
    also: ["7", {version: "9"}]
  broken: {version: "1", archive: broken.mar}
"""
    ) == [
        "serving.yaml:3: models.mnist.version: model_store has no mnist 2.00; it has version 1.0, "
        "2.0; did you mean 2.0?",
        "serving.yaml:4: models.mnist.probe[0].input: gone.png: No such file or directory",
        "serving.yaml:4: models.mnist.probe[1].input: folder: expected a file",
        "serving.yaml:6: models.mnits.version: model_store has no archive of mnits; it has "
        "lenet5, mnist; did you mean mnist?",
        "serving.yaml:9: models.digits.archive: model_store has no archive mnist-2; it has "
        "from-a-colleague.mar, mnist-1.0.mar, mnist-2.0.mar; did you mean mnist-2.0.mar?",
        "serving.yaml:12: models.lenet5.archive: from-a-colleague.mar is version 7, expected 8",
        "serving.yaml:13: models.lenet5.also[1].version: model_store has no lenet5 9; it has "
        "version 7",
        "serving.yaml:14: models.broken.archive: model_store/broken.mar is not a model archive "
        "(File is not a zip file). Pack it again, or pass a .mar or its unpacked folder",
    ]


def test_an_empty_store_says_how_to_fill_it(
    refuse: Callable[[str], list[str]], store: Path
) -> None:
    for each in store.iterdir():
        each.unlink()
    [line] = refuse('models: {mnist: {version: "1.0"}}')
    assert line.endswith(
        "model_store has no archive of mnist; it is empty; `vestal pack` adds an archive"
    )


def test_a_version_in_two_archives_or_named_twice_is_refused(
    refuse: Callable[[str], list[str]], store: Path
) -> None:
    archive(store, "copy.mar", "mnist", "1.0")
    assert refuse('models: {mnist: {version: "1.0"}}') == [
        "serving.yaml:1: models.mnist.version: copy.mar and mnist-1.0.mar are both mnist 1.0; name "
        "one with `archive:`"
    ]
    assert refuse('models: {mnist: {version: "2.0", also: ["2.0"]}}') == [
        "serving.yaml:1: models.mnist.also[0]: version 2.0 is named twice"
    ]


def test_inputs_are_bounded_and_only_files_are_read(
    refuse: Callable[[str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "half").write_bytes(bytes(6_000_000))
    os.mkfifo(tmp_path / "pipe")
    text = """models:
  mnist: {version: "1.0", probe: [{input: half}, {input: half}]}
  lenet5: {version: "7", probe: [{input: pipe}, {input: /dev/zero}]}
"""
    assert refuse(text) == [
        "serving.yaml:2: models.mnist.probe[1].input: half: the inputs of all probes together have "
        "more than 10 MB",
        "serving.yaml:3: models.lenet5.probe[0].input: pipe: expected a file",
        "serving.yaml:3: models.lenet5.probe[1].input: /dev/zero: expected a file",
    ]


def test_without_a_file_the_first_version_of_a_model_is_its_default(store: Path) -> None:
    specs = [
        ModelSpec("mnist", "2.0", store / "mnist-2.0.mar"),
        ModelSpec("lenet5", "7", store / "from-a-colleague.mar"),
        ModelSpec("mnist", "1.0", store / "mnist-1.0.mar"),
    ]
    models = default_desired(specs).models
    assert [(name, each.default, list(each.versions)) for name, each in models.items()] == [
        ("mnist", "2.0", ["2.0", "1.0"]),
        ("lenet5", "7", ["7"]),
    ]
    with pytest.raises(VestalError, match=r"gone\.mar cannot be read: No such file"):
        default_desired([ModelSpec("m", "1", store / "gone.mar")])
