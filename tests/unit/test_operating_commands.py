"""status, history, rollback and the other commands of an operator, with a fake keeper."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from keeper_fake import FakeKeeper, desired, keeper_api, problem
from operator_project import keeper as keeper  # a fixture
from operator_project import project as project  # a fixture
from operator_project import serving_yaml, versions

from vestal.errors import VestalError
from vestal.fleet.desired import Desired
from vestal.fleet.status import GatewayStatus, Traffic

pytestmark = pytest.mark.heavy


def test_status_shows_versions_traffic_and_problems(cli, keeper):
    shown = keeper.status()
    model = shown.models[0]
    model.doing, model.previous = "mnist 2.0: comparing it with 1.0 (12 of 30 s)", "0.9"
    model.versions[0].traffic = Traffic(rate=120.0, error_rate=0.012, p50=0.0041, p99=1.2)
    model.canary = "canary 2.0 gets 10 % of the requests at the gateway"
    rejected = model.versions[0].model_copy(
        update={"version": "2.0", "default": False, "state": "rejected", "reason": "it is slow"}
    )
    rejected.workers = rejected.workers.model_copy(update={"ready": 0, "given_up": 1})
    rejected.traffic = Traffic()
    model.versions.append(rejected)
    shown.ready = shown.converged = False
    shown.torchserve_restarts = 1
    keeper.shown = shown
    code, out, _ = cli("status")
    text = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert text[0].startswith("Not ready (revision 1, the keeper is working)")
    assert text[0].endswith("TorchServe was restarted once")
    assert "mnist 1.0 * ready 1/1 0 120.0 1.2% 4.1 ms 1.20 s 650 MB" in text
    assert "mnist 2.0 rejected 0/1 0 0.0 650 MB" in text
    assert "mnist: mnist 2.0: comparing it with 1.0 (12 of 30 s)" in text
    assert "mnist 2.0 rejected: it is slow" in text
    assert "mnist 2.0: TorchServe does not restart 1 worker any more" in text
    assert "mnist: `vestal rollback mnist` returns to 0.9" in text
    assert "mnist: canary 2.0 gets 10 % of the requests at the gateway" in text
    facts = json.loads(cli("status", "--json")[1])
    assert (facts["ready"], facts["models"][0]["versions"][0]["workers"]["ready"]) == (False, 1)


def test_names_from_archives_are_not_markup(cli, keeper):
    shown = keeper.status()
    shown.models[0].problem = "[red]no markup[/red] [/]"
    keeper.shown = shown
    code, out, err = cli("status")
    assert (code, "[red]no markup[/red] [/]" in out) == (0, True), err


def test_status_shows_the_gateway_and_what_is_wrong_with_it(cli, keeper):
    url = "http://127.0.0.1:8000"
    keeper.shown = keeper.status().model_copy(
        update={"gateway": GatewayStatus(url=url, running=True, restarts=2)}
    )
    assert f"Gateway: {url}; Envoy was restarted 2 times" in cli("status")[1]
    assert json.loads(cli("status", "--json")[1])["gateway"]["url"] == url
    broken = GatewayStatus(url=url, running=False, problem="port 8000 is in use")
    keeper.shown = keeper.shown.model_copy(update={"gateway": broken})
    out = cli("status")[1]
    assert f"Gateway: {url} is not running" in out
    assert "Gateway: port 8000 is in use" in out


def test_status_of_a_server_without_models(cli, keeper):
    keeper.history[0] = keeper.history[0].model_copy(update={"desired": Desired()})
    assert "No model is served. `vestal register ARCHIVE`" in cli("status")[1]
    assert "No model is served." in cli("models")[1]


def test_status_watch_prints_until_ctrl_c(keeper, tmp_path):
    command = [sys.executable, "-m", "vestal", "status", "--watch"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        seen = 0
        while seen < 2:
            seen += process.stdout.readline().startswith("Ready (revision 1)")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, "")


def test_models_lists_versions(cli, keeper):
    code, out, _ = cli("models")
    line = " ".join(out.splitlines()[1].split())
    assert (code, line) == (0, "mnist 1.0 (default) ready 1 mnist-1.0.mar")
    assert json.loads(cli("models", "--json")[1])[0]["archive"] == "mnist-1.0.mar"


def test_register_scale_set_default_and_unregister(cli, keeper):
    code, out, err = cli("register", "mnist-2.0", "--workers", "1-2")
    assert (code, "Done: mnist 2.0 registered (revision 2)" in out) == (0, True), err
    assert versions(keeper) == {"mnist": ("1.0", ["1.0", "2.0"])}
    assert keeper.desired().models["mnist"].versions["2.0"].workers.max == 2
    assert cli("set-default", "mnist", "2.0")[0] == 0
    code, out, _ = cli("scale", "mnist", "3")
    assert "Done: mnist 2.0: 1-2 -> 3 workers" in out
    code, _, err = cli("unregister", "mnist-2.0")
    assert (code, "vestal set-default mnist 1.0" in err) == (2, True)
    assert cli("unregister", "mnist-1.0")[0] == 0
    assert versions(keeper) == {"mnist": ("2.0", ["2.0"])}
    assert cli("register", "other", "--name", "renamed", "--json")[0] == 0
    assert cli("unregister", "mnist")[0] == 0
    assert versions(keeper) == {"renamed": ("1.0", ["1.0"])}
    commands = [each.source.command for each in reversed(keeper.history)]
    assert commands[1:4] == [
        "vestal register mnist-2.0.mar",
        "vestal set-default mnist 2.0",
        "vestal scale mnist 3",
    ]


def test_register_again_has_nothing_to_do_and_keeps_the_workers(cli, keeper):
    assert cli("scale", "mnist", "1-3")[0] == 0
    code, out, _ = cli("register", "mnist-1.0")
    assert (code, "Nothing to do" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("register", "nothing"), "no archive nothing"),
        (("register", "mnist"), "several versions of mnist"),
        (("register", "/elsewhere/mnist-1.0.mar"), "is not in the model store"),
        (("register", "mnist-1.0", "--workers", "many"), "expected a number or MIN-MAX"),
        (("register", "mnist-1.0", "--name", "a/b"), "the model name is 'a/b'"),
        (("scale", "mnits", "2"), "did you mean mnist?"),
        (("scale", "mnist", "0"), "vestal unregister"),
        (("scale", "mnist", "2", "--version", "9"), "mnist 9 is not registered"),
        (("set-default", "mnist", "2.0"), "vestal register ARCHIVE"),
        (("unregister", "mnist-9.9"), "mnist 9.9 is not registered"),
        (("rollback",), "no previous revision"),
    ],
)
def test_usage_errors_of_changes_are_sentences(cli, keeper, arguments, message):
    code, _, err = cli(*arguments)
    assert (code, message in " ".join(err.split())) == (2, True), err
    assert len(keeper.history) == 1


def test_a_problem_of_the_changed_model_refuses_the_change(cli, keeper):
    keeper.planned = problem("mnist", "1.0", "it needs 3.0 GB, and 1.2 GB are free")
    code, _, err = cli("scale", "mnist", "3")
    assert (code, "mnist 1.0: it needs 3.0 GB" in err, "Nothing was changed" in err) == (
        1,
        True,
        True,
    )
    assert len(keeper.history) == 1
    assert cli("register", "other")[0] == 0  # the problem is not this model's


def test_two_commands_at_the_same_time_both_take_effect(cli, keeper, monkeypatch):
    """The slower one reads the desired state again."""
    plan, other = keeper.plan, iter([True])

    def plan_while_another_command_runs(new):
        if next(other, False):
            keeper.apply(desired(other=["1.0"]), keeper.history[0].source)
        return plan(new)

    monkeypatch.setattr(keeper, "plan", plan_while_another_command_runs)
    assert cli("register", "mnist-2.0")[0] == 0
    assert versions(keeper) == {"other": ("1.0", ["1.0"]), "mnist": ("2.0", ["2.0"])}


def test_apply_does_not_overwrite_a_change_that_its_plan_did_not_have(
    cli, keeper, tmp_path, monkeypatch
):
    serving_yaml(tmp_path, "2.0")
    plan = keeper.plan

    def plan_while_another_command_runs(new):
        keeper.apply(desired(other=["1.0"]), keeper.history[0].source)
        return plan(new)

    monkeypatch.setattr(keeper, "plan", plan_while_another_command_runs)
    code, _, err = cli("apply")
    assert (code, "run `vestal apply` again" in err) == (1, True), err
    assert versions(keeper) == {"other": ("1.0", ["1.0"])}


def test_a_change_that_serving_yaml_does_not_have_is_told(cli, keeper, tmp_path):
    assert "serving.yaml" not in cli("scale", "mnist", "2")[2]
    serving_yaml(tmp_path, "1.0", "    workers: 3\n")
    code, _, err = cli("scale", "mnist", "3")
    assert (code, "serving.yaml" in err) == (0, False), err
    code, _, err = cli("rollback")
    assert (code, "serving.yaml still describes another state" in err) == (0, True)


def test_rollback_names_what_it_changed(cli, keeper):
    assert cli("register", "mnist-2.0", "--default")[0] == 0
    code, out, _ = cli("rollback", "mnist")
    assert (code, "Done: mnist 2.0 -> 1.0" in out) == (0, True)
    assert keeper.history[0].source.command == "vestal rollback mnist"


def test_history_lists_changes_newest_first(cli, keeper):
    cli("scale", "mnist", "2")
    keeper.outcome = ("failed", "it predicts\nsomething else")
    cli("register", "mnist-2.0", "--default")
    code, out, _ = cli("history")
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert "register mnist-2.0.mar mnist 1.0 -> 2.0 failed" in rows[1]
    assert "scale mnist 2 mnist 1.0: 1 -> 2 workers done" in rows[2]
    assert rows[-1] == "3 failed: it predicts something else"
    assert [each["number"] for each in json.loads(cli("history", "-n", "2", "--json")[1])] == [3, 2]


def test_stop_waits_for_the_end_of_the_server(cli, project, tmp_path):
    keeper = FakeKeeper(desired(mnist=["1.0"]))
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def end() -> None:
        keeper.stopped.wait(10)
        child.communicate()

    thread = threading.Thread(target=end)
    thread.start()
    with keeper_api(project, keeper, child.pid):
        code, out, _ = cli("stop")
    thread.join()
    assert (code, out, child.poll()) == (0, "Stopped\n", 1)


def test_stop_says_when_the_server_does_not_end(cli, keeper):
    code, _, err = cli("stop", "--timeout", "1")
    assert (code, f"`kill {os.getpid()}`" in err) == (1, True)


@pytest.mark.parametrize(
    "command",
    [
        "status",
        "history",
        "rollback",
        "models",
        "stop",
        "scale m 1",
        "set-default m 1",
        "unregister m",
    ],
)
def test_without_a_server_every_command_says_so(cli, project, command):
    code, _, err = cli(*command.split())
    assert (code, "no server runs here" in err, "vestal serve" in err) == (1, True, True)


def test_an_error_of_the_keeper_is_one_sentence(cli, keeper):
    keeper.failure = VestalError("the disk is full: no space left in .vestal/state")
    code, _, err = cli("scale", "mnist", "2")
    assert (code, err) == (1, "vestal: the disk is full: no space left in .vestal/state\n")
