"""`vestal logs`: the output of a model's workers and the server's log, across rotations."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from operator_project import project as project  # a fixture
from serving import until

from vestal.project import ReadyFile
from vestal.server import log_files
from vestal.server.log_files import last_lines, new_lines, rotated_files


def worker(key: str, text: str, stream: str = "stdout") -> str:
    return f"2026-11-26T14:03:11,123 [INFO ] W-9000-{key}-{stream} MODEL_LOG - {text}\n"


@pytest.fixture
def logs(project):
    """Logs of three runs: the newest file, and two older ones."""
    project.logs.mkdir(parents=True)
    texts = {
        "model_log.2.log": worker("mnist_1.0", "oldest"),
        "model_log.1.log": worker("mnist_1.0", "older") + worker("other_1.0", "[red]x[/red]"),
        "model_log.log": worker("mnist_2.0", "newest", "stderr") + worker("mnist_big_1.0", "big"),
        "ts_log.log": "2026-11-26T14:03:11,123 [INFO ] main Server - started\n",
        "model_log.x.log": worker("mnist_1.0", "not a log"),
    }
    for name, text in texts.items():
        (project.logs / name).write_text(text)
    return project.logs


def texts(out: str) -> list[str]:
    return [re.split(r"  ", line, maxsplit=1)[1] for line in out.splitlines()]


def test_lines_of_a_model_come_from_all_files_oldest_first(cli, logs):
    code, out, _ = cli("logs", "mnist")
    assert (code, texts(out)) == (0, ["oldest", "older", "newest"])
    assert out.splitlines()[2] == "14:03:11,123 mnist_2.0 W-9000  newest"


def test_the_last_lines(cli, logs):
    assert texts(cli("logs", "mnist", "-n", "1")[1]) == ["newest"]
    assert cli("logs", "mnist", "-n", "0")[1] == ""


def test_one_version_and_names_with_underscores(cli, logs, project):
    assert texts(cli("logs", "mnist-1.0")[1]) == ["oldest", "older"]
    assert texts(cli("logs", "mnist_big")[1]) == ["big"]
    served = [{"name": "mnist", "version": "big_1.0", "default": True}]
    address = "http://127.0.0.1:9"
    ready = ReadyFile(address, address, address, os.getpid(), None, served)
    project.ready_file.write_text(ready.to_json())
    assert texts(cli("logs", "mnist")[1])[-1] == "big"


def test_output_of_a_model_is_not_markup_and_can_be_json(cli, logs):
    assert texts(cli("logs", "other")[1]) == ["[red]x[/red]"]
    line = json.loads(cli("logs", "other", "--json")[1])
    assert (line["key"], line["text"]) == ("other_1.0", "[red]x[/red]")


def test_without_a_model_it_prints_the_log_of_the_server(cli, logs):
    assert "main Server - started" in cli("logs")[1]
    assert "started" in json.loads(cli("logs", "--json")[1])["text"]


def test_a_model_without_output_names_those_that_have_some(cli, logs):
    code, _, err = cli("logs", "mnits")
    assert (code, "the log has lines of mnist, mnist_big, other" in err) == (2, True), err


def test_without_logs_it_says_that_no_server_has_run(cli, project):
    code, _, err = cli("logs", "mnist")
    assert (code, "no server has run in this folder" in err) == (1, True)


def test_following_goes_on_across_a_rotation(tmp_path, monkeypatch):
    monkeypatch.setattr(log_files, "_POLL_SECONDS", 0.01)
    path = tmp_path / "model_log.log"
    path.write_text("old\n")
    got: list[str] = []
    lines = new_lines(path)

    def read() -> None:
        for line in lines:
            got.append(line)
            if line == "new file":
                return

    thread = threading.Thread(target=read)
    thread.start()
    with path.open("a") as stream:

        def write(text: str) -> None:
            stream.write(text)
            stream.flush()

        # Only lines that are written after the file was opened are new.
        until(lambda: write("a\n") or got, 10, "a line")
        write("half ")
        path.rename(tmp_path / "model_log.1.log")
        write("line\n")
        path.write_text("new file\n")
        thread.join(10)
    assert [line for line in got if line != "a"] == ["half line", "new file"]


def test_following_stops_at_ctrl_c(logs, tmp_path):
    command = [sys.executable, "-m", "vestal", "logs", "mnist", "-f"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "oldest" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")


def test_rotated_files_are_in_order_of_age(tmp_path):
    for name in ("a.log", "a.1.log", "a.2.log", "a.10.log", "b.1.log", "a.x.log"):
        (tmp_path / name).write_text(f"{name}\n")
    path = tmp_path / "a.log"
    expected = ["a.10.log", "a.2.log", "a.1.log", "a.log"]
    assert [each.name for each in rotated_files(path)] == expected
    assert last_lines(path, 3, lambda _: True) == expected[1:]
