"""The guardian, with small commands instead of TorchServe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from serving import until

from vestal.server import guardian

SECONDS = 20


class Guarded:
    """A guardian process and its messages."""

    def __init__(self, temp, script=None):
        self.temp = temp
        self.key = temp.parent / "key.json"
        self.key.write_text("{}")
        self.process = subprocess.Popen(
            [sys.executable, "-I", guardian.__file__, str(temp), str(self.key), "/not/there"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.folder = self.receive()["folder"]
        if script is not None:
            self.send([sys.executable, "-c", script])
            self.pid = self.receive()["pid"]

    def send(self, command):
        job = {
            "command": command,
            "environment": dict(os.environ),
            "cwd": str(self.temp.parent),
            "output": str(self.temp.parent / "output.log"),
        }
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()

    def receive(self):
        return json.loads(self.process.stdout.readline() or "null")

    def output(self):
        return (self.temp.parent / "output.log").read_text().split()

    def assert_clean(self):
        assert self.process.wait(SECONDS) == 0
        assert list(self.temp.iterdir()) == []
        assert not self.key.exists()
        if hasattr(self, "pid"):
            assert not psutil.pid_exists(self.pid)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(SECONDS)


@pytest.fixture
def guarded(tmp_path):
    made = []
    temp = tmp_path / "temp"
    temp.mkdir()

    def make(script=None):
        made.append(Guarded(temp, script))
        return made[-1]

    yield make
    for each in made:
        each.close()


SLEEP = "import time; time.sleep(600)"


def test_it_ends_its_command_when_its_input_closes(guarded):
    one = guarded(SLEEP)
    one.process.stdin.close()
    one.assert_clean()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_ends_its_command_on_a_signal(guarded, number):
    one = guarded(SLEEP)
    one.process.send_signal(number)
    one.assert_clean()


def test_it_ends_a_command_that_ignores_sigterm(guarded):
    one = guarded(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('started', flush=True); time.sleep(600)"
    )
    until(one.output, SECONDS, "the command")
    start = time.monotonic()
    one.process.stdin.close()
    one.assert_clean()
    assert time.monotonic() - start >= guardian.GRACE_SECONDS


def test_it_finds_a_grandchild_that_left_the_group(guarded):
    one = guarded(
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)\n"
        "print(child.pid, flush=True)"
    )
    assert one.receive() == {"exit": 0}  # only after the child has ended, too
    assert not psutil.pid_exists(int(one.output()[0]))
    one.assert_clean()


def test_it_reports_how_its_command_ended(guarded):
    one = guarded("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert one.receive() == {"exit": -9}
    one.assert_clean()


def test_it_reports_that_a_command_cannot_be_started(guarded):
    one = guarded()
    one.send(["/not/there/java"])
    assert "/not/there/java" in one.receive()["error"]
    one.assert_clean()


def test_it_cleans_up_without_a_command(guarded):
    one = guarded()
    one.process.stdin.close()
    one.assert_clean()
