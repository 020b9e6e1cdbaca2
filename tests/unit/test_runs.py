from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from vestal.errors import UsageError, VestalError
from vestal.models import find_model, model_names
from vestal.project import Project, ReadyFile
from vestal.runs import RECORD, Run, latest_run, new_run_folder


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_runs_are_numbered_also_side_by_side(project):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_run_folder(project, "mnist"), range(16)))
    assert sorted(int(folder.name) for folder in folders) == list(range(1, 17))


def test_the_latest_run_is_the_newest_finished_one(project):
    for number in (2, 10, 11):
        folder = project.runs / "mnist" / str(number)
        folder.mkdir(parents=True)
        if number != 11:
            (folder / RECORD).write_text("{}")
    assert latest_run(project, "mnist").name == "10"


def test_a_model_never_trained_says_how(project):
    with pytest.raises(VestalError, match=r"no weights of mnist in .*vestal train mnist"):
        latest_run(project, "mnist")


def test_an_unfinished_run_names_what_is_missing(project):
    with pytest.raises(VestalError, match=r"not a finished training \(no training.json"):
        Run.read(project.root)


def test_a_broken_record_is_named(trained_project, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(latest_run(trained_project, "mnist"), copy)
    (copy / RECORD).write_text('{"model": "mnist"}')
    with pytest.raises(VestalError, match=r"training.json is not a record of `vestal train`"):
        Run.read(copy)


def test_the_zoo_is_found_from_any_folder(project):
    assert (find_model(project, "mnist") / "recipe.py").is_file()


def test_a_projects_own_model_comes_first(project):
    own = project.models / "mnist"
    own.mkdir(parents=True)
    (own / "recipe.py").write_text("")
    assert find_model(project, "mnist") == own


def test_an_unknown_model_is_named_with_a_guess(project):
    with pytest.raises(UsageError, match=r"no model 'mnits': did you mean mnist\? the models are"):
        find_model(project, "mnits")
    with pytest.raises(UsageError):
        find_model(project, "../models/mnist")


def test_every_model_of_the_zoo_is_listed(project):
    assert "mnist" in model_names(project)


def test_a_ready_file_of_another_shape_is_refused(tmp_path):
    (tmp_path / "ready.json").write_text('{"pid": 1}')
    with pytest.raises(VestalError, match="not a ready file of `vestal serve`"):
        ReadyFile.read(tmp_path / "ready.json")
