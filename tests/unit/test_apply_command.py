"""`vestal apply`, with a fake keeper."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from keeper_fake import problem, step
from operator_project import keeper as keeper  # a fixture
from operator_project import project as project  # a fixture
from operator_project import serving_yaml, versions

from vestal.fleet.status import PlanReport

pytestmark = pytest.mark.heavy


def test_apply_prints_the_plan_and_each_step_and_the_outcome(cli, keeper, tmp_path):
    serving_yaml(tmp_path, "2.0")
    keeper.planned = PlanReport(
        steps=[
            step("register", "mnist", "2.0", "0 -> 1 worker"),
            step("switch", "mnist", "2.0", "1.0 -> 2.0", memory_after=None),
        ]
    )
    keeper.script = [
        {"kind": "started", "model": "mnist", "version": "2.0", "text": "waiting for its worker"},
        {"kind": "done", "model": "mnist", "version": "2.0", "text": "mnist 2.0 is ready"},
    ]
    code, out, err = cli("apply")
    assert code == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:3] == [
        "step model change memory why",
        "register mnist 2.0 0 -> 1 worker 1.3 -> 1.9 GB it is desired",
        "switch mnist 2.0 1.0 -> 2.0 1.3 GB -> unknown it is desired",
    ]
    assert lines[3:] == ["Done: mnist 1.0 -> 2.0 (revision 2)"]
    assert "mnist 2.0: waiting for its worker\n" in err
    assert "mnist 2.0 is ready\n" in err
    assert versions(keeper) == {"mnist": ("2.0", ["2.0"])}
    source = keeper.history[0].source
    assert (source.command, source.file) == ("vestal apply", "serving.yaml")
    assert len(source.sha256) == 64


def test_apply_again_has_nothing_to_do(cli, keeper, tmp_path):
    serving_yaml(tmp_path, "1.0")
    assert cli("apply")[0] == 0  # the file itself is new
    assert len(keeper.history) == 2
    code, out, _ = cli("apply")
    assert (code, out) == (0, "Nothing to do: everything runs as desired.\n")
    assert len(keeper.history) == 2
    code, out, _ = cli("apply", "--json")
    assert (code, json.loads(out)["outcome"]) == (0, "unchanged")


def test_a_dry_run_changes_nothing(cli, keeper, tmp_path):
    serving_yaml(tmp_path, "2.0")
    code, out, _ = cli("apply", "--dry-run")
    assert (code, "switch  mnist 2.0  1.0 -> 2.0" in out) == (0, True), out
    code, out, _ = cli("apply", "--dry-run", "--json")
    assert json.loads(out)["plan"]["steps"][0]["action"] == "switch"
    assert len(keeper.history) == 1


def test_apply_of_another_file_as_json(cli, keeper, tmp_path):
    file = serving_yaml(tmp_path, "2.0").rename(tmp_path / "other.yaml")
    code, out, _ = cli("apply", "-f", file, "--json")
    facts = json.loads(out)
    assert (code, facts["outcome"], facts["changes"]) == (0, "done", ["mnist 1.0 -> 2.0"])
    assert facts["plan"]["steps"][0]["change"] == "1.0 -> 2.0"


def test_a_rejected_version_is_exit_code_1_with_the_reason(cli, keeper, tmp_path):
    serving_yaml(tmp_path, "2.0")
    reason = "mnist 2.0 answers its sample differently; see .vestal/logs/model_log.log"
    keeper.outcome = ("failed", reason)
    code, out, err = cli("apply")
    assert (code, f"vestal: {reason}" in err) == (1, True)
    assert "Done" not in out
    code, out, err = cli("apply", "--json")
    assert (code, json.loads(out)["outcome"], json.loads(out)["reason"]) == (1, "failed", reason)


def test_a_plan_with_a_problem_changes_nothing(cli, keeper, tmp_path):
    serving_yaml(tmp_path, "2.0")
    keeper.planned = problem("mnist", "2.0", "it needs 3.0 GB, and 1.2 GB are free")
    code, _, err = cli("apply")
    assert (code, "mnist 2.0: it needs 3.0 GB" in err, "nothing was changed" in err) == (
        1,
        True,
        True,
    )
    code, out, _ = cli("apply", "--json")
    assert (code, json.loads(out)["plan"]["problems"][0]["model"]) == (1, "mnist")
    assert len(keeper.history) == 1


def test_the_time_limit_ends_only_the_watching(cli, keeper, tmp_path):
    serving_yaml(tmp_path, "2.0")
    keeper.outcome = None
    code, _, err = cli("apply", "--timeout", "1")
    assert (code, "The keeper goes on" in err, "vestal rollback" in err) == (1, True, True)


def test_a_superseded_change_is_reported(cli, keeper, tmp_path):
    serving_yaml(tmp_path, "2.0")
    keeper.outcome = ("superseded", None)
    code, _, err = cli("apply")
    assert (code, "revision 2 was superseded by a newer change" in err) == (1, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models:\n  mnist:\n    verison: '2.0'\n", "did you mean version?"),
        ("models:\n  mnist:\n    version: '3.0'\n", "3.0"),
        ("models:\n  mnits:\n    version: '2.0'\n", "mnist"),
        ("models: [\n", "serving.yaml"),
        ("", "empty"),
    ],
)
def test_a_wrong_file_is_one_sentence_and_changes_nothing(cli, keeper, tmp_path, text, message):
    (tmp_path / "serving.yaml").write_text(text)
    code, _, err = cli("apply")
    assert (code, message in err, "serving.yaml" in err) == (2, True, True), err
    assert len(keeper.history) == 1


def test_apply_without_a_server_and_in_the_wrong_folder(cli, project, monkeypatch, tmp_path):
    code, _, err = cli("apply")
    assert (code, f"there is no serving.yaml in {tmp_path}" in err) == (2, True)
    serving_yaml(tmp_path, "2.0")
    code, _, err = cli("apply")
    assert (code, "no server runs here" in err, "vestal serve" in err) == (1, True, True)
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path / "models")
    code, _, err = cli("apply")
    assert (code, f"but one in {tmp_path}" in err, f"cd {tmp_path}" in err) == (2, True, True)
    assert cli("apply", "-f", "nothing.yaml")[0] == 2


def test_ctrl_c_stops_watching_only(keeper, tmp_path):
    serving_yaml(tmp_path, "2.0")
    keeper.outcome = None
    keeper.script = [{"kind": "started", "text": "waiting for its worker"}]
    command = [sys.executable, "-m", "vestal", "apply"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "waiting for its worker" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "The keeper continues with revision 2" in err
    assert "vestal rollback" in err
    assert versions(keeper)["mnist"][0] == "2.0"
