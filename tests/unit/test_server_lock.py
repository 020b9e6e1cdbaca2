"""One server per project."""

from __future__ import annotations

import os
import re
import stat

import pytest

from vestal.errors import VestalError
from vestal.project import Project, ReadyFile
from vestal.server.lock import lock_project


def test_the_folder_is_private_and_empty(tmp_path):
    project = Project(tmp_path)
    project.state.mkdir(mode=0o755)
    lock_project(project).release()
    assert stat.S_IMODE(project.state.stat().st_mode) == 0o700
    assert list(project.state.iterdir()) == []


@pytest.mark.parametrize("ready", [True, False])
def test_the_error_names_the_running_server(tmp_path, ready):
    project = Project(tmp_path)
    folder = lock_project(project)
    state = "starting or stopping"
    if ready:
        state = "http://127.0.0.1:8080"
        project.ready_file.write_text(ReadyFile(state, "", "", os.getpid(), None, []).to_json())
    with pytest.raises(VestalError, match=re.escape(f"(pid {os.getpid()}, {state})")):
        lock_project(project)
    folder.release()
    lock_project(project).release()


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / ".vestal").write_text("")
    with pytest.raises(VestalError, match=r"\.vestal cannot be used for the server's keys"):
        lock_project(Project(tmp_path))
