"""The findings of `vestal check`, compared with a TorchServe with default settings."""

from __future__ import annotations

import io
import json

import pytest
import requests
from check_archives import simple
from check_foreign import foreign_archives
from PIL import Image
from serving import plain_torchserve

from vestal.checking import check

IGNORED = """
batchSize: "2"
maxBatchDelay: 0
responseTimeout: 55.0
minWorkers: 1
maxWorkers: 1
max_batch_delay: 2
"""

ANSWERING = "def handle(data, context):\n    return ['ok' for _ in data or [None]]\n"
ZOO = ["fashion_mlp", "gpt2", "lenet5", "mnist", "regression", "resnet18", "simplenet"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("run", [False, True], ids=["read", "run"])
def test_archives_of_the_zoo_have_no_findings(zoo_project, name, run):
    report = check(zoo_project.model_store / f"{name}-1.0.mar", run=run)
    assert (report.findings, report.ran) == ((), run)


@pytest.mark.slow
def test_archives_without_findings_serve_and_settings_that_are_errors_are_ignored(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    for name, archive in foreign_archives(tmp_path / "made").items():
        if name in ("eager", "script", "module"):
            assert not [f for f in check(archive).findings if f.severity != "note"]
            archive.rename(store / f"{name}.mar")
    draft = simple(ANSWERING)
    for name in ("__MACOSX/._handler.py", "._net.pt", ".DS_Store", "Thumbs.db", "Desktop.ini"):
        draft.files[name] = b"\0\5\x16\7" * 8
    draft.manifest["model"]["modelVersion"] = 1.10
    draft.manifest |= {"archiverVersion": 0.12, "createdOn": 2024, "description": True}
    junk = draft.write(store / "junk.mar")
    assert not [f for f in check(junk, run=True).findings if f.severity != "note"]
    draft = simple(ANSWERING)
    draft.manifest["model"]["configFile"] = "model-config.yaml"
    draft.text("model-config.yaml", IGNORED)
    ignored = draft.write(store / "ignored.mar")
    assert sorted(f.code for f in check(ignored).findings if f.severity == "error") == [
        *("config-misspelt", "config-type", "config-type", "config-value")
    ]
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    root = tmp_path / "plain"
    names = [f"{path.stem}={path.name}" for path in sorted(store.iterdir())]
    with plain_torchserve(root, store, *names) as (address, caller):
        for name in ("eager", "script", "module", "ignored", "junk"):
            response = requests.post(
                f"{address}/predictions/{name}", data=image.getvalue(), headers=caller, timeout=30
            )
            assert response.status_code == 200, (name, response.text)
        addresses = dict(
            line.split("=", 1) for line in (root / "ports.properties").read_text().splitlines()
        )
        keys = json.loads((root / "key_file.json").read_text())
        described = requests.get(
            f"{addresses['management_address']}/models/ignored",
            headers={"Authorization": f"Bearer {keys['management']['key']}"},
            timeout=10,
        ).json()[0]
        assert (described["batchSize"], described["maxBatchDelay"]) == (1, 100)
        assert described["responseTimeout"] != 55
