"""`vestal serve` runs as in the container of ops/container: PID 1, not root, read-only files.

No image can be built where no registry can be reached, so Linux namespaces impose what the
Dockerfile and `docker run --read-only --cap-drop ALL` do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from serving import END_SECONDS, START_SECONDS, Serving, archive, until

USER = 65534  # nobody
SLOW = """
import subprocess, time

def handle(data, context):
    if data is None:
        # The shell ends at once, and `sleep` becomes an orphan.
        subprocess.run(["sh", "-c", "sleep 0.1 &"])
        return None
    time.sleep(float(bytes(data[0]["body"])))
    return [b"done"] * len(data)
"""
ISOLATE = """
mount --make-rprivate /
mount -t proc proc /proc
if [ -n "$PRIVATE" ]; then  # this Python is in a folder that only root can enter
    mount --bind "$BASE" "$TEMP"
    mount -t tmpfs -o mode=755 tmpfs "$PRIVATE"
    mkdir -p "$BASE"
    mount --move "$TEMP" "$BASE"
fi
mount --bind "$PROJECT/.vestal" "$PROJECT/.vestal"
mount --bind "$TEMP" "$TEMP"
mount -o remount,ro,bind /
cd "$PROJECT"
exec setpriv --reuid=$USER --regid=$USER --clear-groups --no-new-privs \\
    --inh-caps=-all --bounding-set=-all \\
    env --ignore-environment PATH="$PATH" TMPDIR="$TEMP" "$PYTHON" -m vestal serve --port 0
"""


def _can_isolate() -> bool:
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "mount"))):
        return False
    command = ["unshare", "--mount", "--pid", "--fork", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _can_isolate(), reason="namespaces need root on Linux"),
]


class Contained(Serving):
    """A `vestal serve` in namespaces of its own; signals go to its PID 1."""

    def start(self, *arguments: str) -> None:
        base = Path(sys.base_prefix)
        private = [folder for folder in base.parents if not folder.stat().st_mode & 0o001]
        values = {
            "PROJECT": self.project.root,
            "TEMP": self.temp,
            "USER": USER,
            "PYTHON": sys.executable,
            "BASE": base,
            "PRIVATE": private[-1] if private else "",
        }
        settings = [f"{name}={value}" for name, value in values.items()]
        isolated = ["unshare", "--mount", "--pid", "--fork", "sh", "-euc", ISOLATE]
        self.run("env", *settings, *isolated)

    def init(self) -> psutil.Process:
        """Return PID 1 of the namespace."""
        return psutil.Process(self.pid).children()[0]

    def signal(self, number: signal.Signals) -> None:
        self.init().send_signal(number)


@pytest.fixture(scope="module")
def contained() -> Iterator[Contained]:
    with tempfile.TemporaryDirectory(prefix="vt-") as folder:
        root = Path(folder)
        server = Contained(root / "project", root / "temp")
        archive(server.project.model_store, "slow", SLOW)
        server.project.state.mkdir()
        server.temp.mkdir()
        for path in (root, server.project.root, server.project.state, server.temp):
            os.chown(path, USER, USER)
        server.start()
        try:
            server.ready()
            yield server
        finally:
            server.close()


def test_a_model_is_served_by_a_user_without_rights_on_a_read_only_system(contained):
    ready = contained.ready()
    init = contained.init()
    assert init.uids().real == USER
    assert "vestal" in init.cmdline()
    status = Path(f"/proc/{init.pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert Path(f"/proc/{init.pid}/environ").read_text().count("HOME=") == 0
    url = f"{ready.inference}/predictions/slow"
    answer = requests.post(url, b"0", headers=contained.token(), timeout=60)
    assert (answer.status_code, answer.text) == (200, "done")


def test_an_orphan_of_a_worker_does_not_remain_as_a_zombie(contained):
    contained.ready()

    def zombies() -> list[psutil.Process]:
        children = contained.init().children(recursive=True)
        return [child for child in children if child.status() == psutil.STATUS_ZOMBIE]

    def sleeping() -> bool:
        return "sleep" in [child.name() for child in contained.init().children(recursive=True)]

    until(lambda: not sleeping(), END_SECONDS, "the end of the orphan")
    until(lambda: not zombies(), END_SECONDS, "no zombies")


def test_sigterm_to_pid_1_completes_the_request_in_progress(contained):
    ready = contained.ready()
    answers: list[requests.Response] = []

    def call() -> None:
        url = f"{ready.inference}/predictions/slow"
        answers.append(requests.post(url, b"3", headers=contained.token(), timeout=60))

    def arrived() -> bool:
        page = requests.get(f"{ready.metrics}/metrics", timeout=5).text
        return _requests(page) >= 2

    caller = threading.Thread(target=call)
    caller.start()
    until(arrived, START_SECONDS, "the second request")
    contained.signal(signal.SIGTERM)
    assert contained.exit_code(END_SECONDS) == 0, contained.err
    caller.join()
    assert [answer.text for answer in answers] == ["done"]
    assert not list(contained.temp.iterdir())


def _requests(page: str) -> float:
    lines = [line for line in page.splitlines() if line.startswith("ts_inference_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
