"""A training that is killed goes on where it was, and ends as if nothing had been."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from vestal.cli.train import train as train_command
from vestal.errors import UsageError, VestalError
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import Run
from vestal.training.compressing import resolved
from vestal.training.loop import Learner, WholeCheckpoints
from vestal.training.settings import Settings
from vestal.training.train import resume, train

EPOCHS = 60


def epochs_done(folder):
    history = folder / "history.json"
    return len(json.loads(history.read_text())) if history.is_file() else 0


def stopped(project, sent):
    """A training of 60 epochs that gets a signal after five or so; what it says, and its code."""
    command = [sys.executable, "-m", "vestal", "train", "regression", "--epochs", str(EPOCHS)]
    with subprocess.Popen(command, cwd=project.root, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while epochs_done(project.runs / "regression" / "1") < 5:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        with pytest.raises(VestalError, match="another vestal train is at"):
            resume(project, "regression")
        process.send_signal(sent)
        said = process.communicate(timeout=120)[1]
    return said, process.returncode


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A project whose training was killed."""
    project = Project(tmp_path_factory.mktemp("killed"))
    stopped(project, signal.SIGKILL)
    return project


def test_at_control_c_a_training_says_how_to_go_on(tmp_path):
    said, code = stopped(Project(tmp_path), signal.SIGINT)
    said = " ".join(said.split())
    assert f"of {EPOCHS}: go on with --resume" in said
    assert "vestal: training stopped in epoch" in said
    assert "Traceback" not in said
    assert code == 1


def test_a_full_disk_says_how_to_resume_what_is_complete(tmp_path, monkeypatch):
    save = WholeCheckpoints.save_checkpoint

    def full_in_the_second_epoch(self, checkpoint, path, storage_options=None):
        if checkpoint["epoch"] == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(WholeCheckpoints, "save_checkpoint", full_in_the_second_epoch)
    project = Project(tmp_path)
    with pytest.raises(VestalError, match=r"no space left in .*mnist --resume` continues after"):
        train(project, "mnist", Settings(dataset="digits", epochs=2, device="cpu"))
    monkeypatch.undo()
    assert resume(project, "mnist").epochs == 2


def test_control_c_in_the_first_epoch_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "training_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(VestalError, match="stopped in epoch 1 of 2: there is nothing to keep yet"):
        train(Project(tmp_path), "regression", Settings(epochs=2, device="cpu"))
    assert signal.getsignal(signal.SIGINT) is before
    assert not list((tmp_path / "runs" / "regression").iterdir())


def test_what_a_resumed_training_cannot_change_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for said in ({"seed": 5}, {"epochs": 2}, {"start": "x"}):
        with pytest.raises(UsageError, match=r"continues with the options of the"):
            train_command("regression", resume=True, **said)
    with pytest.raises(VestalError, match="there is none to resume"):
        train_command("regression", resume=True, device="cpu")


def test_a_run_to_start_from_is_remembered_by_its_folder(trained_project):
    settings = Settings(prune=0.5, teacher="mnist", dataset="digits")
    found = resolved(trained_project, "mnist", load_recipe(trained_project, "mnist"), settings)
    newest = str(trained_project.runs / "mnist" / "2")
    assert (found.teacher, found.start) == (newest, newest)


def test_a_killed_training_goes_on_and_ends_as_if_nothing_had_been(killed, tmp_path):
    folder = killed.runs / "regression" / "1"
    before = epochs_done(folder)
    assert before < EPOCHS
    resumed = resume(killed, "regression")
    assert resumed.folder == folder
    assert not (folder / "checkpoints").exists()
    whole = train(Project(tmp_path), "regression", Settings(epochs=EPOCHS))
    assert (resumed.best_epoch, resumed.epochs) == (whole.best_epoch, whole.epochs)
    assert resumed.test == whole.test
    states = [torch.load(run.folder / "model.pth", weights_only=True) for run in (resumed, whole)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    histories = [json.loads((run.folder / "history.json").read_text()) for run in (resumed, whole)]
    assert [row["epoch"] for row in histories[0]] == list(range(1, resumed.epochs + 1))
    assert histories[0][-1]["val_loss"] == histories[1][-1]["val_loss"]
    assert Run.read(folder).epochs == resumed.epochs


def test_there_must_be_something_to_resume(tmp_path, trained_project):
    with pytest.raises(VestalError, match=r"no training of mnist in .* was stopped"):
        resume(trained_project, "mnist")
    with pytest.raises(UsageError, match="is no training that was stopped"):
        resume(Project(tmp_path), "mnist", tmp_path)
