"""Code from outside the project never runs, and no file from outside is packed."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace

import pytest
import torch

from vestal.archive.pack import pack
from vestal.archive.runnable import stage_model
from vestal.errors import UsageError, VestalError
from vestal.model_folders import find_model, support_files
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import RECORD, Run
from vestal.training.distillation import load_teacher

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A project with a training of lenet5, whose weights require its code."""
    project = Project(tmp_path_factory.mktemp("original"))
    recipe = load_recipe(project, "lenet5")
    folder = project.runs / "lenet5" / "1"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(recipe.make("0123456789").state_dict(), folder / "model.pth")
    (folder / "index_to_name.json").write_text(json.dumps({str(n): str(n) for n in range(10)}))
    files = support_files(find_model(project, "lenet5"))
    for name, source in files.items():
        shutil.copyfile(source, folder / name)
    run = Run(
        folder=folder,
        model="lenet5",
        task=recipe.task,
        dataset="digits",
        artifacts=["model.pth"],
        support=[*files, "index_to_name.json"],
    )
    run.write()
    return run


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path / "project")


@pytest.fixture
def outside(original, tmp_path):
    """The same training, in a folder outside of the project."""
    return Run.read(shutil.copytree(original.folder, tmp_path / "downloaded"))


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "it-ran"


def evil(mark):
    return f"open({str(mark)!r}, 'w')\n"


def rewritten(run, **changes):
    replace(run, **changes).write()


def test_a_training_from_outside_with_the_projects_code_is_packed(project, outside):
    made = pack(project, "lenet5", version="1.0", weights=outside.folder)
    assert made.source == str(outside.folder)
    with zipfile.ZipFile(made.archive) as archive:
        bill = json.loads(archive.read("bill-of-materials.json"))
        assert archive.read("model.py") == (find_model(project, "lenet5") / "model.py").read_bytes()
    assert bill["training"]["dataset"] == "digits"


PLANTED = {
    "the architecture": lambda run, code: (run.folder / "model.py").write_text(code),
    "the transforms": lambda run, code: (run.folder / "transforms.py").write_text(code),
    "the architecture, unlisted": lambda run, code: (
        (run.folder / "model.py").write_text(code),
        rewritten(run, support=["index_to_name.json"]),
    ),
    "a module of another name": lambda run, code: (
        (run.folder / "yaml.py").write_text(code),
        rewritten(run, support=[*run.support, "yaml.py"]),
    ),
    "a handler": lambda run, code: (
        (run.folder / "handler.py").write_text(code),
        rewritten(run, support=[*run.support, "handler.py"]),
    ),
    "Vestal's own package": lambda run, code: (
        (run.folder / "vestal_handlers").mkdir(),
        (run.folder / "vestal_handlers" / "base.py").write_text(code),
        rewritten(run, support=[*run.support, "vestal_handlers/base.py"]),
    ),
    "the task": lambda run, code: rewritten(run, task=f"x import y\n{code}#"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_code_from_outside_never_runs(kind, project, outside, mark):
    PLANTED[kind](outside, evil(mark))
    with pytest.raises(VestalError, match=r"from outside this project.*copy it into .*models"):
        pack(project, "lenet5", version="1.0", weights=outside.folder)
    with pytest.raises(VestalError, match="from outside this project"):
        stage_model(project.root / "staged", project, "lenet5", weights=outside.folder)
    with pytest.raises(VestalError, match="from outside this project"):
        load_teacher(project, Run.read(outside.folder), outside.labels)
    assert not mark.exists()
    assert not list(project.model_store.glob("*.mar"))


def test_a_folder_of_the_project_outside_of_runs_is_not_trusted(project, outside, mark):
    PLANTED["the architecture"](outside, evil(mark))
    inside = project.root / "downloads" / "lenet5"
    shutil.copytree(outside.folder, inside)
    linked = project.runs / "lenet5" / "1"
    linked.parent.mkdir(parents=True)
    linked.symlink_to(inside)
    for weights in (inside, project.runs / ".." / "downloads" / "lenet5", linked, None):
        with pytest.raises(VestalError, match="from outside this project"):
            pack(project, "lenet5", version="1.0", weights=weights)
    assert not mark.exists()


def test_a_training_that_is_copied_into_runs_belongs_to_the_project(project, outside):
    shutil.copytree(outside.folder, project.runs / "lenet5" / "1")
    (project.runs / "lenet5" / "1" / "transforms.py").write_text(
        (outside.folder / "transforms.py").read_text() + "# mine\n"
    )
    assert pack(project, "lenet5", version="1.0").new


@pytest.mark.parametrize("key", ["artifacts", "support"])
@pytest.mark.parametrize("kind", ["..", "absolute", "link", "linked folder", "backslash"])
@pytest.mark.parametrize("own", [False, True])
def test_no_file_from_outside_is_packed(key, kind, own, project, outside, tmp_path):
    folder = outside.folder
    if own:
        folder = shutil.copytree(folder, project.runs / "lenet5" / "1")
    secret = tmp_path / "secrets" / "secret.pth"
    secret.parent.mkdir()
    shutil.copyfile(folder / "model.pth", secret)
    (folder / "link.pth").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    name = {
        "..": "../" * len(folder.parts) + str(secret)[1:],
        "absolute": str(secret),
        "link": "link.pth",
        "linked folder": "linked/secret.pth",
        "backslash": "..\\secret.pth",
    }[kind]
    run = replace(outside, folder=folder)
    rewritten(run, **{key: [*getattr(run, key), name]})
    with pytest.raises(VestalError, match=r"training\.json names .*, which is outside of"):
        pack(project, "lenet5", version="1.0", weights=folder)


def test_a_link_in_a_model_folder_stays_in_the_project(project, tmp_path, mark):
    home = project.models / "lenet5"
    shutil.copytree(find_model(project, "lenet5"), home)
    shared = project.models / "shared.py"
    shared.write_text("")
    (home / "blocks.py").symlink_to(shared)
    assert "blocks.py" in support_files(find_model(project, "lenet5"))
    (tmp_path / "elsewhere.py").write_text(evil(mark))
    (home / "more.py").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(UsageError, match=r"more\.py is a link to .*, outside of the project"):
        load_recipe(project, "lenet5")
    (home / "more.py").unlink()
    (home / "parts").mkdir()
    (home / "parts" / "secret.txt").symlink_to(tmp_path / "elsewhere.py")
    with pytest.raises(UsageError, match=r"secret\.txt is a link"):
        support_files(home)


@pytest.mark.parametrize(
    "record",
    [
        {"artifacts": []},
        {"artifacts": ["model.exe"]},
        {"artifacts": "model.pth"},
        {"support": [1]},
        {"task": 5},
        {"model": ["lenet5"]},
    ],
)
def test_an_invalid_record_is_refused_with_one_sentence(record, outside):
    file = outside.folder / RECORD
    file.write_text(json.dumps({**json.loads(file.read_text()), **record}))
    with pytest.raises(VestalError, match=r"training\.json (is not a record|names)"):
        Run.read(outside.folder)


def test_the_error_about_invalid_labels_names_the_file(outside):
    (outside.folder / "index_to_name.json").write_text('{"a": "b"}')
    with pytest.raises(VestalError, match=r"index_to_name\.json cannot be read"):
        _ = outside.labels
