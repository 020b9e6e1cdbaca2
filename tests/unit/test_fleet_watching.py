"""`vestal serve --watch` notices every kind of change of serving.yaml."""

from __future__ import annotations

import os

import pytest
from serving import until

from vestal.errors import VestalError
from vestal.fleet import watching
from vestal.fleet.watching import FileWatcher
from vestal.mar.index import sha256_of


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A watched file; `contents` are those that were applied, `problems` the messages."""
    monkeypatch.setattr(watching, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(watching, "_RETRY_SECONDS", 0.1)

    class Watched:
        path = tmp_path / "serving.yaml"
        failure: str | None = None

        def __init__(self) -> None:
            self.contents: list[str] = []
            self.problems: list[str] = []

        def apply(self, path):
            if self.failure:
                raise VestalError(self.failure)
            self.contents.append(path.read_text())

    one = Watched()
    one.path.write_text("first")
    watcher = FileWatcher(one.path, sha256_of(one.path), one.apply, one.problems.append)
    watcher.start()
    yield one
    watcher.stop()
    watcher.stop()  # does nothing


def test_an_unchanged_file_is_not_applied_again(watched):
    os.utime(watched.path, (1, 1))
    watched.path.write_text("second")
    until(lambda: watched.contents, 10, "the change")
    assert watched.contents == ["second"]


def test_a_replaced_file_with_the_same_time_and_size_is_noticed(watched, tmp_path):
    status = watched.path.stat()
    new = tmp_path / "new"
    new.write_text("FIRST")
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.replace(watched.path)
    until(lambda: watched.contents == ["FIRST"], 10, "the change")


def test_a_config_map_is_swapped_by_its_link(tmp_path, monkeypatch):
    """Kubernetes: serving.yaml -> ..data/serving.yaml, and ..data is a link that is replaced."""
    monkeypatch.setattr(watching, "_POLL_SECONDS", 0.02)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "serving.yaml").write_text(name)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "serving.yaml").symlink_to("..data/serving.yaml")
    contents: list[str] = []
    path = tmp_path / "serving.yaml"
    watcher = FileWatcher(
        path, sha256_of(path), lambda path: contents.append(path.read_text()), contents.append
    )
    watcher.start()
    (tmp_path / "..data_tmp").symlink_to("two")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    until(lambda: contents == ["two"], 10, "the swap")
    watcher.stop()


def test_an_invalid_file_is_told_once_and_the_next_one_is_applied(watched):
    watched.failure = "serving.yaml:1: expected models"
    watched.path.write_text("wrong")
    until(lambda: watched.problems, 10, "the problem")
    watched.failure = None
    watched.path.write_text("right")
    until(lambda: "right" in watched.contents, 10, "the change")
    problem = f"{watched.path} was not applied: serving.yaml:1: expected models"
    assert watched.problems == [problem]


def test_a_file_whose_archive_arrives_later_is_tried_again(watched):
    watched.failure = "there is no archive mnist-2.0.mar"
    watched.path.write_text("version 2.0")
    until(lambda: watched.problems, 10, "the problem")
    watched.failure = None
    until(lambda: watched.contents == ["version 2.0"], 10, "the retry")


def test_a_removed_file_is_told_and_its_return_is_noticed(watched):
    watched.path.unlink()
    until(lambda: watched.problems, 10, "the problem")
    assert "is missing" in watched.problems[0]
    watched.path.write_text("back")
    until(lambda: watched.contents == ["back"], 10, "the change")


def test_a_change_before_the_start_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "_POLL_SECONDS", 0.02)
    path, contents = tmp_path / "serving.yaml", []
    path.write_text("changed")
    watcher = FileWatcher(path, "0" * 64, lambda p: contents.append(p.read_text()), contents.append)
    watcher.start()
    until(lambda: contents == ["changed"], 10, "the change")
    watcher.stop()
