"""The pytest plugin `vestal.testing.plugin` in a user's tests."""

from __future__ import annotations

import subprocess
import sys

from doubling import write_doubler

TESTS = """
import json
from vestal.inprocess import Input


def test_a_number_is_doubled(archive):
    good, bad, large = archive({folder!r}, batch_size=2).predict(
        [1.5, {{"x": "not a number"}}, bytes(30_000_000)]
    )
    assert (good.status, good.json()) == (200, {{"doubled": 3.0}})
    assert bad.status == 422
    assert (large.status, large.reached) == (413, False)


def test_an_archive_is_loaded_once(archive):
    loaded = archive({folder!r}, batch_size=2)
    assert loaded.handler.sizes[-1] == 1
    assert loaded.times.forward > 0
    assert archive({folder!r}, batch_size=2) is loaded
    assert loaded.describe()["name"] == "doubler"
    (explanation,) = loaded.predict([Input.raw(b"2", "application/json", explain="True")])
    assert explanation.json() == {{"because": 2.0}}
"""


def pytest_of_user(folder, *arguments):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:randomly",
            "--rootdir",
            str(folder),
            *arguments,
            str(folder),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def test_a_conftest_enables_the_fixture(tmp_path):
    doubler = write_doubler(tmp_path / "doubler")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["vestal.testing.plugin"]\n')
    (tmp_path / "test_user.py").write_text(TESTS.format(folder=str(doubler)))
    output = pytest_of_user(tmp_path)
    assert "2 passed" in output, output


def test_without_the_plugin_vestal_adds_nothing_to_pytest(tmp_path):
    """If this fails, install the project again: its old metadata still loads the plugin."""
    (tmp_path / "test_user.py").write_text(
        "import sys\n\n\ndef test_nothing_is_imported():\n    assert 'vestal' not in sys.modules\n"
    )
    output = pytest_of_user(tmp_path)
    assert "1 passed" in output, output
    assert "archive" not in pytest_of_user(tmp_path, "--fixtures")
