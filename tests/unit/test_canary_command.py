"""`vestal canary` and the keeper's API for it, with a fake keeper."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from itertools import count

import pytest
import requests
from operator_project import keeper as keeper  # a fixture
from operator_project import project as project  # a fixture
from operator_project import serving_yaml
from serving import until

from vestal.errors import UsageError
from vestal.fleet.keeper_token import read_token
from vestal.project import ReadyFile

pytestmark = pytest.mark.heavy


def when_started(keeper, *changes):
    """Change the canary after it was started, as (state, text, fields)."""

    def work():
        until(lambda: keeper.canary_runs, 60, "a canary")
        for state, text, fields in changes:
            keeper.change_run("mnist", state, text, **fields)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


PROMOTED = ("promoted", "mnist 2.0 is the default version", {"ended": True})
BROKEN = "31 of 900 requests failed (3.44%); allowed: 0.5%"


def test_a_canary_is_watched_until_it_is_the_default_version(cli, keeper):
    thread = when_started(keeper, ("running", "mnist 2.0 gets 50 % of the requests", {}), PROMOTED)
    code, out, err = cli("canary", "mnist", "2.0", "--sticky", "header:x-user")
    thread.join()
    assert (code, out) == (0, ""), err
    (request,) = keeper.requested
    assert (request.model, request.version, request.archive) == ("mnist", "2.0", "mnist-2.0.mar")
    assert request.rules.model_dump() == {
        "steps": (1, 10, 50, 100),
        "every": 60,
        "max_error_rate": 0.005,
        "max_p99_ratio": 1.2,
    }
    assert request.sticky is not None
    assert request.sticky.header == "x-user"
    lines = [line.split("  ", 1)[1] for line in err.splitlines() if line[2:3] == ":"]
    assert lines == [
        "mnist 2.0 is loaded",
        "mnist 2.0 gets 50 % of the requests",
        "mnist 2.0 is the default version",
    ]


def test_a_canary_that_is_sent_back_fails_the_command_with_its_reason(cli, keeper):
    ended = {"ended": True, "reason": BROKEN}
    thread = when_started(keeper, ("reverted", f"mnist 2.0 is sent back: {BROKEN}", ended))
    code, out, err = cli("canary", "mnist", "2.0", "--json")
    thread.join()
    assert code == 1
    last = err.splitlines()[-1]
    assert last == f"vestal: mnist 2.0 did not become the default version: {BROKEN}"
    assert json.loads(out)["reason"] == BROKEN


def test_the_options_are_passed_in_the_notation_of_serving_yaml(cli, keeper):
    options = ("--steps", "5,100", "--every", "10m", "--max-error-rate", "2%")
    code, out, err = cli(
        "canary", "mnist", "2.0", *options, "--max-p99-ratio", "none", "--no-wait", "--json"
    )
    assert code == 0, err
    rules = json.loads(out)["rules"]
    assert rules == {
        "steps": [5, 100],
        "every": 600,
        "max_error_rate": 0.02,
        "max_p99_ratio": None,
    }


WRONG = [
    (("--steps", "1,x"), "--steps is '1,x'; expected increasing percentages"),
    (("--steps", "10,5,100"), "expected increasing percentages"),
    (("--steps", "0,100"), "expected increasing percentages"),
    (("--steps", "1,10"), "of which the last one is 100"),
    (("--steps", "nan,100"), "expected increasing percentages"),
    (("--steps", "100"), "there is no other version to compare the p99 with"),
    (("--every", "0"), "--every is '0'; expected a duration above 0"),
    (("--every", "soon"), "--every is 'soon'; expected a duration"),
    (("--max-error-rate", "0"), "expected more than 0% and less than 100%"),
    (("--max-error-rate", "200%"), "--max-error-rate is '200%'; expected a fraction"),
    (("--max-p99-ratio", "0.9"), "--max-p99-ratio is '0.9'; expected a number above 1"),
    (("--sticky", "x-user"), "expected header:NAME or cookie:NAME"),
    (("--pause",), "the version 2.0 and --pause exclude each other"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_a_wrong_option_is_one_sentence(cli, keeper, options, message):
    code, _, err = cli("canary", "mnist", "2.0", *options)
    assert (code, err.count("\n"), message in err) == (2, 1, True), err
    assert keeper.requested == []


def test_a_version_that_is_not_in_the_store_is_refused(cli, keeper):
    code, _, err = cli("canary", "mnist", "3.0")
    assert code == 2
    assert "has no mnist 3.0; it has version 1.0, 2.0" in err


def test_the_refusal_of_the_keeper_is_printed(cli, keeper):
    keeper.failure = UsageError("a canary of mnist 2.1 is running (at 10 %)")
    code, _, err = cli("canary", "mnist", "2.0")
    assert (code, err) == (2, "vestal: a canary of mnist 2.1 is running (at 10 %)\n")


def test_pause_resume_abort_and_status(cli, keeper, project):
    for arguments in ((), ("--pause",), ("--status",)):
        code, _, err = cli("canary", "mnist", *arguments)
        assert (code, "there is no canary of mnist; `vestal canary" in err) == (2, True)
    cli("canary", "mnist", "2.0", "--no-wait")
    keeper.change_run("mnist", "running", "more", waiting="400 of 697 requests", seconds=12.0)
    assert "mnist 2.0 at 1 % (12 s): 400 of 697 requests" in cli("canary", "mnist")[1]
    assert "mnist 2.0 at 1 % (paused, 12 s)" in cli("canary", "mnist", "--pause")[1]
    assert cli("canary", "mnist", "--resume")[0] == 0
    serving_yaml(project.root, "2.0")
    code, out, err = cli("canary", "mnist", "--abort")
    assert (code, "mnist 2.0: aborted" in out) == (0, True)
    assert "serving.yaml still describes another state" in err
    code, _, err = cli("canary", "mnist", "--abort", "--pause")
    assert (code, "--pause and --abort exclude each other" in err) == (2, True)


def test_ctrl_c_ends_only_the_watching(keeper, tmp_path):
    command = [sys.executable, "-m", "vestal", "canary", "mnist", "2.0"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "mnist 2.0 is loaded" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Stopped watching. The keeper goes on: `vestal canary mnist` shows the canary" in err
    assert keeper.canary_runs["mnist"].state == "running"


def test_another_canary_ends_the_watching(cli, keeper):
    def work():
        until(lambda: keeper.canary_runs, 60, "a canary")
        for number in count():
            run = keeper.canary_runs["mnist"]
            first = run.log[0].model_copy(update={"text": f"another {number}"})
            keeper.canary_runs["mnist"] = run.model_copy(update={"log": [first]})
            if ended.wait(0.1):
                return

    ended = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    code, _, err = cli("canary", "mnist", "2.0")
    ended.set()
    thread.join()
    assert (code, "another canary of mnist was started meanwhile" in err) == (1, True), err


def test_the_api_needs_the_token_and_checks_its_input(keeper, project):
    url = str(ReadyFile.read(project.ready_file).keeper)
    token = {"Authorization": f"Bearer {read_token(project)}"}
    assert requests.get(f"{url}/v1/canaries", timeout=10).status_code == 401
    assert requests.get(f"{url}/v1/canaries", headers=token, timeout=10).json() == []
    missing = requests.get(f"{url}/v1/canaries/mnist", headers=token, timeout=10)
    assert (missing.status_code, missing.json()["type"]) == (400, "UsageError")
    body = {"model": "mnist", "version": "2.0", "archive": "m.mar", "sha256": "a" * 64}
    for rules in (
        {"steps": [1, 10]},
        {"steps": []},
        {"steps": [100, 100]},
        {"every": 0},
        {"max_error_rate": 0},
        {"unknown": 1},
    ):
        refused = requests.post(
            f"{url}/v1/canaries", json={**body, "rules": rules}, headers=token, timeout=10
        )
        assert refused.status_code == 422, refused.text
    wrong = requests.post(f"{url}/v1/canaries/mnist/stop", headers=token, timeout=10)
    assert wrong.status_code == 422
    assert keeper.requested == []
    started = requests.post(f"{url}/v1/canaries", json=body, headers=token, timeout=10)
    assert started.status_code == 200, started.text
    assert started.json()["weight"] == 1
