"""One server in a project."""

from __future__ import annotations

import os
import re
import stat

import pytest

from vestal.errors import VestalError
from vestal.project import Project, ReadyFile
from vestal.server.lock import lock


def test_the_folder_is_made_for_its_owner_alone_and_no_file_in_it(tmp_path):
    project = Project(tmp_path)
    project.state.mkdir(mode=0o755)
    lock(project).release()
    assert stat.S_IMODE(project.state.stat().st_mode) == 0o700
    assert list(project.state.iterdir()) == []


@pytest.mark.parametrize("ready", [True, False])
def test_the_second_names_the_first(tmp_path, ready):
    project = Project(tmp_path)
    folder = lock(project)
    where = "still starting or stopping"
    if ready:
        where = "http://127.0.0.1:8080"
        project.ready_file.write_text(ReadyFile(where, "", "", os.getpid(), None, []).to_json())
    with pytest.raises(VestalError, match=re.escape(f"(pid {os.getpid()}, {where})")):
        lock(project)
    folder.release()
    lock(project).release()


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / ".vestal").write_text("")
    with pytest.raises(VestalError, match=r"\.vestal cannot be the server's folder"):
        lock(Project(tmp_path))
