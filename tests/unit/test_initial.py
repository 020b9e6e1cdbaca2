"""What `vestal serve` runs at first: its arguments, the stored state, serving.yaml, the store."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_server_spec import archive

from vestal.errors import UsageError, VestalError
from vestal.fleet.initial import Initial, choose, needs_archives, state_folder
from vestal.fleet.resolving import default_desired
from vestal.fleet.state import StateStore
from vestal.fleet.status import Source
from vestal.mar.index import sha256_of
from vestal.project import Project
from vestal.server.spec import find_models

COMMAND = Source(command="vestal apply", user="me")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    project.model_store.mkdir()
    project.state.mkdir()
    for version in ("1.0", "2.0"):
        archive(project.model_store, f"mnist-{version}.mar", version=version)
    return project


def initial(project: Project, *archives: str, file: Path | None = None) -> Initial:
    state = StateStore(state_folder(project))
    return choose(project, archives, project.model_store, state, file, 60)


def store_command(project: Project, source: Source = COMMAND) -> None:
    specs, _ = find_models(["mnist-1.0.mar"], project.model_store)
    StateStore(state_folder(project)).add_revision(default_desired(specs), source)


def write_file(project: Project, version: str) -> Path:
    file = project.root / "serving.yaml"
    file.write_text(f'models:\n  mnist:\n    version: "{version}"\n')
    return file


def default(found: Initial) -> str:
    return found.desired.models["mnist"].default


def test_without_anything_the_newest_version_runs_and_is_not_stored(project: Project) -> None:
    assert needs_archives(project, None)
    found = initial(project)
    assert (default(found), found.stored, found.source) == ("2.0", False, None)
    assert found.desired.models["mnist"].swap.ready_seconds == 60


def test_archives_in_the_arguments_replace_the_stored_state_and_say_so(project: Project) -> None:
    store_command(project)
    found = initial(project, "mnist-2.0.mar")
    assert (default(found), found.stored) == ("2.0", False)
    assert found.notices == [
        "serving the archives of the arguments instead of the stored state (mnist 1.0)"
    ]


def test_the_state_that_a_command_stored_is_restored(project: Project) -> None:
    store_command(project)
    assert not needs_archives(project, None)
    found = initial(project)
    assert (default(found), found.stored, found.source) == ("1.0", True, None)
    assert found.notices == ["restoring revision 1 of the desired state (`vestal apply`)"]


def test_a_changed_file_is_reported_when_the_state_is_restored(project: Project) -> None:
    file = write_file(project, "2.0")
    applied = COMMAND.model_copy(update={"file": str(file), "sha256": sha256_of(file)})
    store_command(project, applied)
    assert len(initial(project).notices) == 1
    file.write_text(file.read_text() + "# changed\n")
    found = initial(project)
    assert default(found) == "1.0"
    assert "serving.yaml has changed since it was applied" in found.notices[1]


def test_a_file_is_applied_without_a_stored_state_or_on_request(project: Project) -> None:
    file = write_file(project, "1.0")
    found = initial(project)
    assert (default(found), found.stored) == ("1.0", True)
    assert found.source is not None
    assert found.source.sha256 == sha256_of(file)
    store_command(project)
    write_file(project, "2.0")
    assert default(initial(project)) == "1.0"
    assert default(initial(project, file=file)) == "2.0"


def test_archives_and_a_file_together_are_refused(project: Project) -> None:
    with pytest.raises(UsageError, match="only one of them"):
        initial(project, "mnist-1.0.mar", file=write_file(project, "1.0"))


def test_an_empty_store_is_an_error(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.model_store.mkdir()
    project.state.mkdir()
    with pytest.raises(VestalError, match="has no archive"):
        initial(project)
