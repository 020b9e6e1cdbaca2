"""Command line and environment of TorchServe."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vestal.configuration.config import LOG_CONFIG, Configuration
from vestal.project import Project
from vestal.server import guarded, launch
from vestal.server.java import find_java
from vestal.server.launch import LaunchOptions


@pytest.fixture
def environment(tmp_path):
    def make(**inherited):
        return launch._environment(inherited, tmp_path / "temp", tmp_path / "logs")

    return make


def test_workers_do_not_inherit_python_and_torchserve_variables(environment):
    made = environment(PYTHONPATH="/ours", PYTHONHOME="/ours", TS_CONFIG_FILE="/other", HOME="/me")
    assert "/ours" not in made.values()
    assert "/other" not in made.values()
    assert made["HOME"] == "/me"


def test_workers_run_the_same_python(environment):
    folder = str(Path(sys.executable).parent)
    assert environment(PATH="/usr/bin")["PATH"] == f"{folder}{os.pathsep}/usr/bin"


LOCALES = [
    {},
    {"LC_ALL": "C"},
    {"LC_ALL": "xx_YY.UTF-8"},  # not installed
    {"LANG": "xx_YY.UTF-8"},
    {"LANG": "C.UTF-8", "LC_TIME": "xx_YY.UTF-8"},  # one missing name is enough
    {"LC_ALL": "C.UTF-8"},
    {"LANG": "C.UTF-8"},
    {"LC_CTYPE": "C.UTF-8"},
]


def encoding_of_paths(variables):
    """Return the encoding that Java uses for paths."""
    done = subprocess.run(
        [find_java(os.environ).executable, "-XshowSettings:properties", "-version"],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return re.search(r"sun\.jnu\.encoding = (\S+)", done.stderr + done.stdout)[1]


@pytest.mark.parametrize("names", LOCALES, ids=str)
def test_java_can_open_paths_that_are_not_ascii(environment, names):
    made = environment(**names)
    assert encoding_of_paths(made) == "UTF-8"
    if encoding_of_paths(names) == "UTF-8":  # the user's own locale is kept
        assert {
            name: made[name] for name in made if name in ("LC_ALL", "LC_CTYPE", "LANG")
        } == names


def test_idle_openmp_threads_of_workers_sleep(environment):
    assert environment()["OMP_WAIT_POLICY"] == "passive"


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_a_wait_policy_of_the_user_is_kept(environment, name):
    made = environment(**{name: "7"})
    assert made[name] == "7"
    assert len({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & made.keys()) == 1


def test_the_command_keeps_java_options_and_replaces_the_log_configuration(tmp_path):
    (tmp_path / "config.properties").write_text(
        "vmargs=-Xmx1g -Dlog4j.configurationFile=mine.xml\nplugins_path=/plugins"
    )
    project = Project(tmp_path)
    configuration = Configuration.load(project)
    options = LaunchOptions(project, configuration, [], tmp_path / "store", [], Path("/java"))
    command = launch._command(options, tmp_path / "temp", tmp_path / "temp" / "config.properties")
    assert command[0] == "/java"
    assert "-Xmx1g" in command
    assert [argument for argument in command if "log4j" in argument] == [
        f"-Dlog4j.configurationFile={LOG_CONFIG.as_uri()}"
    ]
    assert command[command.index("-cp") + 1].endswith("/ts/frontend/*:/plugins/*")
    assert command[-5:] == [
        *("-f", str(tmp_path / "temp" / "config.properties")),
        *("-s", str(tmp_path / "store")),
        "-ncs",
    ]


def test_sockets_are_in_a_folder_with_a_short_path(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/short")
    assert guarded.temp_folder() == Path("/short")
    monkeypatch.setattr(tempfile, "tempdir", "/" + "long" * 20)
    assert guarded.temp_folder() == Path("/tmp")
