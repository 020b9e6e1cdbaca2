"""The operator's commands with a real server: apply, rollback, register, scale, detach, stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import requests
from serving import ECHO, END_SECONDS, START_SECONDS, archive, serving, until

from vestal.project import ReadyFile

NOWHERE = "http://127.0.0.1:9"
PROXIES = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), NOWHERE)
"""Commands and servers run with a proxy in their environment that does not exist."""

BROKEN = "raise ValueError('no weights')\n" + ECHO


def sample(version, length=4):
    return {"content_type": "x/y", "answer": {"length": length, "version": version}}


def vestal(server, *arguments):
    """Run a command in the project of the server; return exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "vestal", *arguments],
        cwd=server.project.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=START_SECONDS,
        env={**os.environ, **PROXIES, "TMPDIR": str(server.temp), "TEMP": str(server.temp)},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def succeed(server, *arguments):
    code, out, err = vestal(server, *arguments)
    assert code == 0, err
    return out


def ready(server):
    """The ready file; a detached server is not a child of this process."""
    return ReadyFile.read(server.project.ready_file)


def describe(server):
    """`{"echo": ("1.0", ["1.0", "2.0"])}`: the default and all versions, from the ready file."""
    found = {}
    for each in ready(server).models:
        default, versions = found.get(each["name"], (None, []))
        default = each["version"] if each["default"] else default
        found[each["name"]] = (default, sorted([*versions, each["version"]]))
    return found


def answer(server):
    response = requests.post(
        f"{ready(server).inference}/predictions/echo",
        data=b"abc",
        headers=server.token(),
        timeout=30,
    )
    return response.json()["version"]


def serving_yaml(server, version, more=""):
    settle = "    settle_time: 0\n"
    text = f'models:\n  echo:\n    version: "{version}"\n{settle}{more}'
    (server.project.root / "serving.yaml").write_text(text)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A project with archives; echo 1.0 is served from a serving.yaml by `serve --detach`."""
    with serving(tmp_path_factory.mktemp("operated") / "project") as server:
        store = server.project.model_store
        for version in ("1.0", "2.0"):
            archive(store, "echo", version=version, sample=sample(version))
        archive(store, "echo", BROKEN, version="3.0")
        archive(store, "echo", version="4.0", sample=sample("4.0", 5))
        archive(store, "other")
        serving_yaml(server, "1.0")
        out = succeed(server, "serve", "--detach", "--port", "0")
        assert "Ready: echo 1.0 (default)" in out
        assert "`vestal stop` stops the server." in out
        yield server
        if server.project.ready_file.exists():
            succeed(server, "stop")
        until(lambda: not server.processes(), END_SECONDS, "the end of every process")


def test_a_dry_run_shows_the_plan_and_apply_carries_it_out(server):
    serving_yaml(server, "2.0")
    plan = succeed(server, "apply", "--dry-run")
    actions = [line.split()[0] for line in plan.splitlines() if line and line[0] != " "]
    assert actions[:4] == ["step", "register", "verify", "switch"]
    assert answer(server) == "1.0"
    out = succeed(server, "apply")
    assert "Done: echo 1.0 -> 2.0" in out
    assert answer(server) == "2.0"
    until(lambda: describe(server) == {"echo": ("2.0", ["2.0"])}, END_SECONDS, "the ready file")
    assert succeed(server, "apply") == "Nothing to do: everything runs as desired.\n"


@pytest.mark.slow
def test_the_history_has_the_change_and_rollback_undoes_it(server):
    serving_yaml(server, "1.0")
    succeed(server, "apply")
    serving_yaml(server, "2.0")
    succeed(server, "apply", "--json")
    code, out, err = vestal(server, "rollback")
    assert (code, "Done: echo 2.0 -> 1.0" in out) == (0, True), err
    assert "serving.yaml still describes another state" in err
    assert answer(server) == "1.0"
    newest, before, *_ = json.loads(succeed(server, "history", "--json"))
    assert (newest["source"]["command"], newest["outcome"]) == ("vestal rollback", "done")
    assert (before["changes"], before["source"]["file"]) == (["echo 1.0 -> 2.0"], "serving.yaml")
    assert "rollback" in succeed(server, "history")


@pytest.mark.parametrize(
    ("version", "reason"),
    [pytest.param("3.0", "no weights", marks=pytest.mark.slow), ("4.0", "sample")],
)
def test_a_version_that_fails_is_exit_code_1_and_the_old_one_serves(server, version, reason):
    serving_yaml(server, "1.0")
    succeed(server, "apply")
    serving_yaml(server, version)
    code, _, err = vestal(server, "apply")
    assert (code, reason in err, ".vestal/logs" in err) == (1, True, True), err
    assert answer(server) == "1.0"
    until(lambda: describe(server) == {"echo": ("1.0", ["1.0"])}, END_SECONDS, "the ready file")
    assert f"{version}" in succeed(server, "status")
    code, _, err = vestal(server, "apply")  # again: it is tried again
    assert (code, reason in err) == (1, True), err
    serving_yaml(server, "1.0")
    assert "Done" in succeed(server, "apply")


@pytest.mark.slow
def test_changes_by_commands_survive_a_restart(server):
    serving_yaml(server, "1.0")
    succeed(server, "apply")
    succeed(server, "register", "echo-2.0")
    succeed(server, "register", "other", "--workers", "2")
    succeed(server, "set-default", "echo", "2.0")
    succeed(server, "scale", "other", "1")
    code, _, err = vestal(server, "unregister", "echo-2.0")
    assert (code, "vestal set-default echo 1.0" in err) == (2, True)
    expected = {"echo": ("2.0", ["1.0", "2.0"]), "other": ("1.0", ["1.0"])}
    until(lambda: describe(server) == expected, END_SECONDS, "the new models")
    succeed(server, "stop")
    assert "Ready" in succeed(server, "serve", "--detach", "--port", "0")
    until(lambda: describe(server) == expected, END_SECONDS, "the restored models")
    assert answer(server) == "2.0"
    succeed(server, "unregister", "echo-1.0")
    succeed(server, "unregister", "other")
    until(lambda: describe(server) == {"echo": ("2.0", ["2.0"])}, END_SECONDS, "the removal")


def test_status_models_and_logs_of_a_running_server(server):
    status = json.loads(succeed(server, "status", "--json"))
    version = status["models"][0]["versions"][0]
    assert (status["ready"], version["workers"]["ready"]) == (True, 1)
    assert version["memory"] > 10_000_000
    assert "Ready (revision" in succeed(server, "status")
    assert "(default)" in succeed(server, "models")
    assert "ModelServer" in succeed(server, "logs", "-n", "1000")


def test_a_second_detached_server_is_refused(server):
    code, _, err = vestal(server, "serve", "--detach", "--port", "0")
    assert (code, "is already running in this project" in err) == (1, True)
    assert answer(server)


@pytest.mark.slow
def test_a_watched_file_is_applied_and_an_invalid_one_is_not(tmp_path):
    with serving(tmp_path / "watched") as server:
        for version in ("1.0", "2.0"):
            archive(server.project.model_store, "echo", version=version)
        serving_yaml(server, "1.0")
        server.start("--watch", "--port", "0")
        server.ready()
        (server.project.root / "serving.yaml").write_text("models: [")
        until(lambda: "serving.yaml was not applied" in server.err, END_SECONDS, "the problem")
        assert answer(server) == "1.0"
        serving_yaml(server, "2.0")
        until(lambda: answer(server) == "2.0", START_SECONDS, "the new version")


@pytest.mark.slow
def test_a_detached_server_that_cannot_start_gives_its_reason(tmp_path):
    with serving(tmp_path / "failing") as server:
        code, _, err = vestal(server, "serve", "--detach", "--port", "0")
        assert (code, "vestal pack" in err) == (1, True), err
        archive(server.project.model_store, "echo", BROKEN)
        code, _, err = vestal(server, "serve", "--detach", "--port", "0")
        assert (code, "no weights" in err) == (1, True), err
        assert not server.processes()
        assert vestal(server, "serve", "-d", "nothing", "--port", "0")[0] == 2
