from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from vestal.errors import UsageError, VestalError
from vestal.model_folders import find_model, model_names
from vestal.project import Project, ReadyFile
from vestal.runs import RECORD, Run, latest_run, new_run_folder


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_simultaneous_runs_get_different_numbers(project):
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


def test_the_error_about_an_untrained_model_names_the_command(project):
    with pytest.raises(VestalError, match=r"no weights of mnist in .*vestal train mnist"):
        latest_run(project, "mnist")


def test_the_error_about_an_unfinished_run_names_the_missing_file(project):
    with pytest.raises(VestalError, match=r"not a finished training \(no training.json"):
        Run.read(project.root)


@pytest.mark.heavy
def test_a_broken_record_is_named(trained_project, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(latest_run(trained_project, "mnist"), copy)
    (copy / RECORD).write_text('{"model": "mnist"}')
    with pytest.raises(VestalError, match=r"training.json is not a record of `vestal train`"):
        Run.read(copy)


def test_the_zoo_is_found_from_any_folder(project):
    assert (find_model(project, "mnist") / "recipe.py").is_file()


def test_a_model_of_the_project_hides_one_of_the_zoo(project):
    own = project.models / "mnist"
    own.mkdir(parents=True)
    (own / "recipe.py").write_text("")
    assert find_model(project, "mnist") == own


def test_the_error_about_an_unknown_model_suggests_a_similar_name(project):
    with pytest.raises(UsageError, match=r"unknown model 'mnits': did you mean mnist\? the models"):
        find_model(project, "mnits")
    with pytest.raises(UsageError):
        find_model(project, "../models/mnist")


def test_every_model_of_the_zoo_is_listed(project):
    assert "mnist" in model_names(project)


def test_an_invalid_ready_file_is_refused(tmp_path):
    (tmp_path / "ready.json").write_text('{"pid": 1}')
    with pytest.raises(VestalError, match="not a ready file of `vestal serve`"):
        ReadyFile.read(tmp_path / "ready.json")
