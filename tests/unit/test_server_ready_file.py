"""The path of a ready file: an existing file is not removed unless it is a ready file."""

from __future__ import annotations

import pytest
from test_server_spec import archive

from vestal.errors import UsageError, VestalError
from vestal.fleet.server import Server
from vestal.project import Project


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("notes.txt", r"notes\.txt exists and is not a ready file"),
        ("gone/ready.json", "there is no folder"),
        (".", "exists and is not a ready file"),
    ],
)
def test_another_file_is_refused_and_kept(tmp_path, path, message):
    project = Project(tmp_path)
    project.model_store.mkdir()
    archive(project.model_store, "one.mar")
    (tmp_path / "notes.txt").write_text("mine")
    with (
        pytest.raises(UsageError, match=message),
        Server(project, ready_file=tmp_path / path),
    ):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_server_is_not_ready_outside_its_with(tmp_path):
    with pytest.raises(VestalError, match="use it inside `with Server"):
        _ = Server(Project(tmp_path)).ready
