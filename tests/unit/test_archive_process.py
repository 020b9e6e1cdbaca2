"""A child process that stops in the middle of a line, or reads nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vestal.errors import VestalError
from vestal.inprocess.archive_process import ArchiveProcess
from vestal.inprocess.frontend import Frontend, RawRequest

pytestmark = pytest.mark.heavy

LOADED = "print('{\"loaded\": true}', flush=True)\n"
ANSWER = '{"status": 200, "headers": {}, "body": "", "reached": true, "seconds": 0.1}'
CHILDREN = {
    "stops in the middle of its first line": 'os.write(1, b"{")\ntime.sleep(60)',
    "stops in the middle of an answer": (
        LOADED + 'sys.stdin.readline()\nos.write(1, b"{")\ntime.sleep(60)'
    ),
    "writes a byte now and then": 'while True:\n    os.write(1, b"x")\n    time.sleep(0.1)',
    "reads nothing": LOADED + "time.sleep(60)",
    "closes its output and lives on": LOADED + "os.close(1)\ntime.sleep(60)",
    "writes something else": LOADED + 'print("[1]", flush=True)\ntime.sleep(60)',
    "ends in the middle of a line": LOADED + 'os.write(1, b"{")',
}


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest):
    """A child process that runs the parameter instead of loading an archive."""
    script = tmp_path / "child.py"
    script.write_text(f"import os, sys, time\n{request.param}\n")
    starter = tmp_path / "python"
    starter.write_text(f"#!/bin/sh\nexec {sys.executable} {script}\n")
    starter.chmod(0o755)
    monkeypatch.setattr("vestal.inprocess.child_process.sys.executable", str(starter))
    monkeypatch.setattr("vestal.inprocess.child_process._SECONDS_TO_END", 0.2)
    frontend = Frontend(max_request_size=10_000_000, decode=False)
    with ArchiveProcess(tmp_path, "m-1.0.mar", frontend, seconds=1) as child:
        yield child


@pytest.mark.parametrize("child", CHILDREN.values(), ids=CHILDREN, indirect=True)
def test_a_process_that_makes_no_progress_is_given_up(child: ArchiveProcess) -> None:
    with pytest.raises(VestalError, match=r"^m-1\.0\.mar: .*(took longer than 1 s|ended with)"):
        load_and_predict(child)


def load_and_predict(child: ArchiveProcess) -> None:
    child.wait_until_loaded()
    child.predict(RawRequest("big", b"x" * 5_000_000, "image/png", {}))  # more than a pipe holds


@pytest.mark.parametrize(
    "child",
    [f"{LOADED}while sys.stdin.readline():\n    os.write(1, b'{ANSWER}' + b'\\n')"],
    indirect=True,
)
def test_a_request_larger_than_a_pipe_gets_a_response(child: ArchiveProcess) -> None:
    child._seconds = 60.0
    child.wait_until_loaded()
    for _ in range(2):
        response, seconds = child.predict(RawRequest("big", b"x" * 5_000_000, "image/png", {}))
        assert (response.status, seconds) == (200, 0.1)
