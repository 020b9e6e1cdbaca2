"""`vestal serve --detach`: its own errors, and the reason of a server that does not start."""

from __future__ import annotations

import os

import pytest

from vestal.cli.detach import _failure, _prepare, serve_log, start_detached
from vestal.errors import UsageError, VestalError
from vestal.project import Project, ReadyFile


def test_the_reason_is_the_error_of_the_server(tmp_path):
    lines = ["starting TorchServe", "vestal: model echo did not load: no weights", "    at line 1"]
    error = _failure(1, lines, tmp_path / "serve.log")
    assert str(error) == "model echo did not load: no weights\n    at line 1"
    assert not isinstance(error, UsageError)
    assert isinstance(_failure(2, ["vestal: no archive x"], tmp_path), UsageError)


def test_a_killed_server_is_reported_with_the_end_of_its_log(tmp_path):
    error = _failure(-9, ["starting TorchServe"], tmp_path / "serve.log")
    assert "was killed by signal 9 before it was ready" in str(error)
    assert "starting TorchServe" in str(error)


def test_a_server_that_was_stopped_is_no_failure_of_its_own(tmp_path):
    lines = ["vestal: a line of an earlier server", "Stopped"]
    assert str(_failure(0, lines, tmp_path)) == "the server was stopped before it was ready"


def test_a_server_that_runs_already_keeps_its_log(tmp_path):
    project = Project(tmp_path)
    project.logs.mkdir(parents=True)
    serve_log(project).write_text("running\n")
    address = "http://127.0.0.1:9"
    ready = ReadyFile(address, address, address, os.getpid(), None, [])
    project.ready_file.write_text(ready.to_json())
    with pytest.raises(VestalError, match=rf"already running in this project \(pid {os.getpid()}"):
        start_detached(project, [])
    assert serve_log(project).read_text() == "running\n"


def test_a_large_log_is_moved_away_and_the_folder_is_private(tmp_path, monkeypatch):
    monkeypatch.setattr("vestal.cli.detach._LARGEST_LOG", 10)
    project = Project(tmp_path)
    _prepare(serve_log(project), project)
    assert project.state.stat().st_mode & 0o777 == 0o700
    serve_log(project).write_text("x" * 20)
    _prepare(serve_log(project), project)
    assert not serve_log(project).exists()
    assert (project.logs / "serve.1.log").exists()


def test_a_server_that_ends_at_once_gives_its_reason(tmp_path, monkeypatch):
    """The command itself is real; the project has no archive."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VestalError, match="vestal pack"):
        start_detached(Project(tmp_path), ["--port", "0"])
