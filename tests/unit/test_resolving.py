"""Archives and inputs that serving.yaml names are found, or reported with their line."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vestal.errors import UsageError, VestalError
from vestal.fleet.desired import Canary, Desired, Shadow, SwapPolicy, Workers
from vestal.fleet.resolving import default_desired, resolve, version_target
from vestal.fleet.serving_file import load
from vestal.gateway.settings import Gateway, Sticky, Tls
from vestal.mar.index import sha256_of
from vestal.server.spec import ModelSpec


def archive(store: Path, file: str, name: str, version: str, config: str | None = None) -> Path:
    store.mkdir(exist_ok=True)
    model = {"modelName": name, "modelVersion": version, "handler": "handler.py"}
    with zipfile.ZipFile(store / file, "w") as members:
        if config is not None:
            model["configFile"] = "model-config.yaml"
            members.writestr("model-config.yaml", config)
        members.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
    return store / file


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "model_store"
    archive(store, "mnist-1.0.mar", "mnist", "1.0")
    archive(store, "mnist-2.0.mar", "mnist", "2.0", "minWorkers: 2\nmaxWorkers: 3\n")
    archive(store, "from-a-colleague.mar", "lenet5", "7")
    return store


@pytest.fixture
def resolved(store: Path, tmp_path: Path) -> Callable[[str], Desired]:
    def read(text: str) -> Desired:
        file = tmp_path / "serving.yaml"
        file.write_text(text)
        return resolve(load(file), store, tmp_path)

    return read


@pytest.fixture
def refuse(resolved: Callable[[str], Desired], tmp_path: Path) -> Callable[[str], list[str]]:
    def check(text: str) -> list[str]:
        with pytest.raises(UsageError) as error:
            resolved(text)
        return str(error.value).replace(f"{tmp_path}/", "").splitlines()

    return check


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


def test_a_canary_and_a_shadow_are_versions_of_the_model(
    resolved: Callable[[str], Desired], store: Path
) -> None:
    archive(store, "mnist-3.0.mar", "mnist", "3.0")
    mnist = resolved(
        """models:
  mnist:
    version: "1.0"
    canary: {version: "2.0", weight: 10, sticky: {header: x-user}, memory_limit: 1GB}
    shadow: {version: "3.0", workers: 2}
gateway: {}
"""
    ).models["mnist"]
    assert (mnist.default, list(mnist.versions)) == ("1.0", ["1.0", "2.0", "3.0"])
    assert mnist.canary == Canary(version="2.0", weight=10, sticky=Sticky(header="x-user"))
    assert mnist.shadow == Shadow(version="3.0", sample=100)
    assert mnist.versions["2.0"].memory_limit == 10**9
    assert mnist.versions["2.0"].workers == Workers(min=2, max=3)
    assert mnist.versions["3.0"].workers == Workers(min=2, max=2)


def test_a_canary_that_cannot_get_requests_is_refused(refuse: Callable[[str], list[str]]) -> None:
    text = """models:
  mnist:
    version: "1.0"
    canary: {version: "2.0", weight: 10}
    shadow: {version: "4.0"}
"""
    assert refuse(text) == [
        "serving.yaml:4: models.mnist.canary: a canary needs the gateway: add `gateway: {port: "
        "8000}` to the file",
        "serving.yaml:5: models.mnist.shadow.version: model_store has no mnist 4.0; it has "
        "version 1.0, 2.0; did you mean 2.0?",
        "serving.yaml:5: models.mnist.shadow: a shadow needs the gateway: add `gateway: {port: "
        "8000}` to the file",
    ]
    text = """models:
  mnist:
    version: "1.0"
    canary: {version: "1.0", weight: 10}
gateway: {}
"""
    assert refuse(text) == ["serving.yaml:4: models.mnist.canary: version 1.0 is named twice"]


def test_the_files_of_the_gateway_are_found(
    resolved: Callable[[str], Desired], tmp_path: Path
) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("-")
    keys = tmp_path / "keys.yaml"
    keys.write_text("shop: {key: 0123456789abcdef}")
    keys.chmod(0o600)
    text = """models: {}
gateway:
  tls: {certificate: cert.pem, key: key.pem}
  api_keys: keys.yaml
  rate_limit: 5
"""
    assert resolved(text).gateway == Gateway(
        tls=Tls(certificate=f"{tmp_path}/cert.pem", key=f"{tmp_path}/key.pem"),
        api_keys=str(keys),
        rate_limit=5,
    )


def test_files_of_the_gateway_that_cannot_be_used_are_listed(
    refuse: Callable[[str], list[str]], tmp_path: Path
) -> None:
    (tmp_path / "cert.pem").write_text("-")
    keys = tmp_path / "keys.yaml"
    text = """models: {}
gateway:
  tls: {certificate: cert.pem, key: key.pem}
  api_keys: keys.yaml
"""
    assert refuse(text) == [
        "serving.yaml:3: gateway.tls.key: key.pem: No such file or directory",
        "serving.yaml:4: gateway.api_keys: keys.yaml: No such file or directory",
    ]
    keys.write_text("shop: {key: 0123456789abcdef}")
    keys.chmod(0o644)
    assert refuse(text)[1] == (
        "serving.yaml:4: gateway.api_keys: keys.yaml is readable for every user: run `chmod 600 "
        "keys.yaml`"
    )
    keys.chmod(0o600)
    keys.write_text("shop:\n  key: short\nbatch: {key: 0123456789abcdef, model: [mnist]}\n")
    assert refuse(text)[1] == (
        "serving.yaml:4: gateway.api_keys: keys.yaml:2: shop.key: expected 16 to 500 characters "
        "without spaces (python -c 'import secrets; print(secrets.token_urlsafe(32))'); "
        "keys.yaml:3: batch.model: unknown key; expected one of key, models"
    )


def test_without_envoy_the_gateway_names_the_package(
    refuse: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "envoy", None)  # an import fails as if it were not installed
    assert refuse("models: {}\ngateway: {}\n") == [
        "serving.yaml:2: gateway: the gateway needs Envoy, which is not installed: pip install "
        "'vestal[gateway]'"
    ]
