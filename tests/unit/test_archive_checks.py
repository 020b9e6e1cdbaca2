"""The keeper checks an archive in a process of its own, once for its bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest

from vestal.fleet.archive_checks import ArchiveChecks
from vestal.fleet.failures import Interrupted, VersionFailed

pytestmark = pytest.mark.heavy


HANDLER = "def handle(data, context):\n    return data\n"


def archive(folder: Path, name: str, handler: str = HANDLER) -> Path:
    model = {"modelName": "one", "modelVersion": "1.0", "handler": "one_handler.py"}
    with zipfile.ZipFile(folder / name, "w") as content:
        content.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        content.writestr("one_handler.py", handler)
    return folder / name


def none() -> None:
    return None


def test_an_archive_is_checked_once(tmp_path: Path) -> None:
    file, checks = archive(tmp_path, "one.mar"), ArchiveChecks()
    checks.run(file, "a" * 64, "1.0", none)
    file.unlink()
    checks.run(file, "a" * 64, "1.0", none)


def test_another_version_and_errors_are_refused(tmp_path: Path) -> None:
    checks = ArchiveChecks()
    file = archive(tmp_path, "one.mar")
    with pytest.raises(VersionFailed, match=r"has version 1\.0, and 2\.0 is desired"):
        checks.run(file, "a" * 64, "2.0", none)
    broken = archive(tmp_path, "broken.mar", handler="def handle(:\n")
    with pytest.raises(VersionFailed, match=r"broken\.mar cannot be served: .*`vestal check /"):
        checks.run(broken, "b" * 64, "1.0", none)


def test_a_check_ends_when_it_is_interrupted(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise Interrupted("the server is stopping")

    with pytest.raises(Interrupted):
        ArchiveChecks().run(archive(tmp_path, "one.mar"), "a" * 64, "1.0", interrupt)


INTERRUPTED = """
import os, sys
from pathlib import Path
from vestal.fleet.archive_checks import ArchiveChecks

def interrupt():
    if list(Path(sys.argv[2]).iterdir()):
        os.kill(os.getpid(), int(sys.argv[3])) if sys.argv[3] != "0" else sys.exit("unpacked")

ArchiveChecks().run(Path(sys.argv[1]), "a" * 64, "1.0", interrupt)
"""


@pytest.mark.parametrize("number", [0, signal.SIGKILL])
def test_nothing_stays_in_the_temporary_folder(tmp_path: Path, number: int) -> None:
    """Neither of a check that is interrupted, nor of one whose parent is killed."""
    file = archive(tmp_path, "one.mar", HANDLER + "x = 1\n" * 150_000)  # a second to parse
    with tempfile.TemporaryDirectory(dir=tmp_path) as temp:
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, file, temp, str(int(number))],
            env={**os.environ, "TMPDIR": temp},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ("" if number else "unpacked\n")
        assert done.returncode == (-number if number else 1)
        deadline = time.monotonic() + 20
        while list(Path(temp).iterdir()):
            assert time.monotonic() < deadline, list(Path(temp).rglob("*"))
            time.sleep(0.05)
