from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_models import packed

from vestal.archive.pack import _revision, pack
from vestal.archive.weights import find_weights
from vestal.checking import check
from vestal.errors import UsageError, VestalError
from vestal.inprocess import LoadedArchive
from vestal.mar.index import add_entry, read_index, sha256_of, update_index
from vestal.mar.sample import find_difference, read_sample
from vestal.model_folders import find_model
from vestal.optimize.convert import artifact_for
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import latest_run

pytestmark = pytest.mark.heavy

DIGITS = [str(number) for number in range(10)]


@pytest.fixture
def weights(trained_project):
    return latest_run(trained_project, "mnist")


def test_an_archive_holds_what_a_worker_needs(trained_project):
    with zipfile.ZipFile(trained_project.model_store / "mnist-1.0.mar") as archive:
        names = archive.namelist()
        manifest = json.loads(archive.read("MAR-INF/MANIFEST.json"))
    assert {"handler.py", "model.pt", "transforms.py", "index_to_name.json"} <= set(names)
    assert {"sample/input.png", "sample/sample.json", "model.py"} <= set(names)
    assert {"vestal_handlers/base.py", "bill-of-materials.json"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    assert manifest["model"]["modelVersion"] == "1.0"


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes_eight_at_once_and_on_two_days(
    tmp_path, weights, monkeypatch
):
    # Python writes bytecode beside the handler that is loaded; it must not be packed.
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)

    def packed_in(number):
        project = Project(tmp_path / str(number))
        return pack(project, "mnist", version="3.0", weights=weights).sha256

    def packed_on(day, zone):
        """By the command, where it is another day; its inputs were written then, too."""
        copied = tmp_path / day / "run"
        shutil.copytree(weights, copied)
        for file in copied.rglob("*"):
            os.utime(file, (int(day) * 86_400,) * 2)
        command = ["pack", "mnist", "--version", "3.0", "--weights", str(copied), "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "vestal", *command],
            cwd=tmp_path / day,
            env={**os.environ, "TZ": zone},
            capture_output=True,
            check=True,
        )
        return json.loads(done.stdout)["sha256"]

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(packed_in, range(8)))
    assert len(made) == 1
    assert {packed_on("10000", "A-24"), packed_on("20000", "B+24")} == made


def test_the_bill_names_the_packages_of_a_custom_handler(tmp_path):
    """A regressor whose handler uses a package that is otherwise only needed for images."""
    project = Project(tmp_path)
    home = project.models / "regression"
    shutil.copytree(find_model(project, "regression"), home)
    (home / "handler.py").write_text(
        "from vestal_handlers.images import decoding\n"
        "from vestal_handlers.tasks.regressor import Regressor\n\n\n"
        "class Handler(Regressor):\n    limit = decoding.MAX_PIXELS\n"
    )
    archive = packed(project, "regression")
    assert not check(archive).failed
    with zipfile.ZipFile(archive) as content:
        bill = json.loads(content.read("bill-of-materials.json"))
    assert "torchvision" in bill["packages"]
    assert not {"torchserve", "sklearn", "scikit-learn"} & bill["packages"].keys()


def test_packing_again_changes_nothing(tmp_path, weights):
    project = Project(tmp_path)
    first = pack(project, "mnist", version="1.0", weights=weights)
    index = (project.model_store / "index.json").read_bytes()
    again = pack(project, "mnist", version="1.0", weights=weights)
    assert (first.new, again.new) == (True, False)
    assert (project.model_store / "index.json").read_bytes() == index
    assert sorted(f.name for f in project.model_store.iterdir()) == ["index.json", "mnist-1.0.mar"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torchscript", "exported", "onnx"])
def test_converted_weights_have_the_same_bytes_in_every_folder(tmp_path, engine):
    torch.manual_seed(0)
    weights = tmp_path / "state.pth"
    torch.save(load_recipe(Project(tmp_path), "lenet5").make(DIGITS).state_dict(), weights)
    made = []
    for name in ("a", "b"):
        run = find_weights(Project(tmp_path), "lenet5", weights, tmp_path / name / "run", DIGITS)
        before = sorted(run.folder.rglob("*"))
        made.append(artifact_for(run, engine, tmp_path / name).read_bytes())
        assert sorted(run.folder.rglob("*")) == before
    assert made[0] == made[1]
    for place in (tmp_path, Path(torch.__file__).parent):
        assert str(place).encode() not in made[0]


def test_other_content_under_the_same_version_is_refused_unless_forced(trained_project, tmp_path):
    project = Project(tmp_path)
    runs = trained_project.runs / "mnist"
    before = pack(project, "mnist", version="1.0", weights=runs / "1")
    with pytest.raises(VestalError, match=r"exists with other content .*--version, or --force"):
        pack(project, "mnist", version="1.0", weights=runs / "2")
    assert sha256_of(before.archive) == before.sha256
    forced = pack(project, "mnist", version="1.0", weights=runs / "2", force=True)
    assert sha256_of(before.archive) == forced.sha256 != before.sha256
    assert forced.replaced is not None
    assert (forced.replaced["sha256"], forced.replaced["dataset"]) == (before.sha256, "digits")


def test_of_two_simultaneous_packs_of_one_version_one_is_refused(trained_project, tmp_path):
    project = Project(tmp_path)

    def packed(number):
        try:
            weights = trained_project.runs / "mnist" / number
            return pack(project, "mnist", version="1.0", weights=weights).sha256
        except VestalError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        results = sorted(pool.map(packed, "12"), key=len)
    assert "exists with other content" in results[1]
    assert read_index(project.model_store)["mnist-1.0.mar"]["sha256"] == results[0]


@pytest.mark.parametrize("content", ["", "[]", '{"a.mar": 1}', "{"])
def test_an_invalid_index_is_an_error_before_anything_is_replaced(tmp_path, content):
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(VestalError, match=r"index\.json cannot be read"), update_index(tmp_path):
        pytest.fail("the archive would be replaced here")
    assert (tmp_path / "index.json").read_text() == content


def test_an_archive_with_the_same_bytes_keeps_its_entry():
    index = {}
    add_entry(index, "a.mar", sha256="1", machine="one")
    before = index["a.mar"]
    add_entry(index, "a.mar", sha256="1", machine="two")
    assert index["a.mar"] is before
    add_entry(index, "a.mar", sha256="2", machine="two")
    assert index["a.mar"]["machine"] == "two"


def test_a_revision_shows_whether_files_have_changed(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *identity, "-C", tmp_path, *words], check=True, capture_output=True)

    assert _revision(tmp_path) is None
    git("init")
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-m", "a")
    git("tag", "v1")
    clean = _revision(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a").write_text("b")
    assert _revision(tmp_path) == f"{clean}-dirty"


def test_a_folder_may_have_a_comma_in_its_name(tmp_path, weights):
    project = Project(tmp_path / "a, b")
    assert pack(project, "mnist", version="1.0", weights=weights).new


def test_an_unknown_precision_is_refused(tmp_path, weights):
    with pytest.raises(
        UsageError, match="unknown precision 'int4': pass one of fp32, fp16, bf16, int8"
    ):
        pack(Project(tmp_path), "mnist", version="1.0", weights=weights, precision="int4")


def test_the_index_records_the_origin_of_an_archive(trained_project):
    store = trained_project.model_store
    entry = read_index(store)["mnist-1.0.mar"]
    assert entry["sha256"] == sha256_of(store / "mnist-1.0.mar")
    assert (entry["name"], entry["version"], entry["dataset"]) == ("mnist", "1.0", "digits")
    assert 0.5 < entry["metrics"]["accuracy"] <= 1


def test_the_index_keeps_every_entry_under_parallel_packs(tmp_path):
    def record(number):
        with update_index(tmp_path) as index:
            add_entry(index, f"m-{number}.mar", sha256=str(number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(record, range(40)))
    assert len(read_index(tmp_path)) == 40


@pytest.mark.parametrize("version", ["1.0/../../x", "", "a b", "-1", "1.0\n"])
def test_an_invalid_version_is_refused(tmp_path, weights, version):
    with pytest.raises(UsageError, match="cannot be part of a file name"):
        pack(Project(tmp_path), "mnist", version=version, weights=weights)


def test_missing_weights_are_an_error(tmp_path):
    with pytest.raises(VestalError, match=r"is a folder without training"):
        pack(Project(tmp_path), "mnist", version="1.0", weights=tmp_path)


def test_weights_that_do_not_load_are_not_packed(tmp_path, weights):
    broken = tmp_path / "broken"
    shutil.copytree(weights, broken)
    (broken / "model.pt").write_bytes(b"not TorchScript")
    project = Project(tmp_path / "project")
    with pytest.raises(VestalError, match=r"^mnist 1\.0 did not load"):
        pack(project, "mnist", version="1.0", weights=broken)
    assert not list(project.model_store.iterdir())


def test_a_sample_file_is_packed_with_its_prediction(tmp_path, weights):
    project = Project(tmp_path)
    image = tmp_path / "seven.webp"
    Image.new("L", (30, 40), 7).save(image, lossless=True)
    archive = pack(project, "mnist", version="1.0", weights=weights, sample=image).archive
    sample = read_sample(archive)
    assert (sample.input, sample.content_type) == (image.read_bytes(), "image/webp")
    with LoadedArchive(archive) as loaded:
        (answer,) = loaded.predict([sample.input])
    assert find_difference(sample.answer, answer.json(), sample.tolerance) is None


def test_a_sample_that_the_handler_refuses_is_an_error(tmp_path, weights):
    project = Project(tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(VestalError, match=r"refuses its own sample: .*415"):
        pack(project, "mnist", version="1.0", weights=weights, sample=tmp_path / "text.png")
    with pytest.raises(UsageError, match=r"no file .*nowhere.png: --sample expects one input"):
        pack(project, "mnist", version="1.0", weights=weights, sample=tmp_path / "nowhere.png")
