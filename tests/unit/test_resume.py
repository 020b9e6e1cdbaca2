"""A killed training continues after its last complete epoch, and gives the same weights."""

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
from vestal.training.distillation import Distillation
from vestal.training.loop import AtomicCheckpoints, Learner
from vestal.training.pruning import Pruning
from vestal.training.settings import Settings
from vestal.training.train import resume, train

pytestmark = pytest.mark.heavy

EPOCHS = 60


def epochs_done(folder):
    history = folder / "history.json"
    return len(json.loads(history.read_text())) if history.is_file() else 0


def interrupt(project, sent):
    """Send a signal to a training of 60 epochs after about five; return its stderr and code."""
    command = [sys.executable, "-m", "vestal", "train", "regression", "--epochs", str(EPOCHS)]
    with subprocess.Popen(command, cwd=project.root, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 300
        while epochs_done(project.runs / "regression" / "1") < 5:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        with pytest.raises(VestalError, match="another vestal train uses"):
            resume(project, "regression")
        process.send_signal(sent)
        stderr = process.communicate(timeout=300)[1]
    return stderr, process.returncode


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A project whose training was killed."""
    project = Project(tmp_path_factory.mktemp("killed"))
    interrupt(project, signal.SIGKILL)
    return project


@pytest.mark.slow
def test_after_control_c_the_message_explains_how_to_continue(tmp_path):
    stderr, code = interrupt(Project(tmp_path), signal.SIGINT)
    message = " ".join(stderr.split())
    assert f"of {EPOCHS}: continue with --resume" in message
    assert "vestal: training interrupted in epoch" in message
    assert "Traceback" not in message
    assert code == 1


def test_the_message_about_a_full_disk_explains_how_to_resume(tmp_path, monkeypatch):
    save = AtomicCheckpoints.save_checkpoint

    def full_in_the_second_epoch(self, checkpoint, path, storage_options=None):
        if checkpoint["epoch"] == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpoints, "save_checkpoint", full_in_the_second_epoch)
    project = Project(tmp_path)
    with pytest.raises(VestalError, match=r"no space left in .*regression --resume` continues af"):
        train(project, "regression", Settings(epochs=2, device="cpu"))
    monkeypatch.undo()
    assert resume(project, "regression").epochs == 2


def test_control_c_in_the_first_epoch_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "training_step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(VestalError, match="interrupted in epoch 1 of 2: no epoch is complete yet"):
        train(Project(tmp_path), "regression", Settings(epochs=2, device="cpu"))
    assert signal.getsignal(signal.SIGINT) is before
    assert not list((tmp_path / "runs" / "regression").iterdir())


def test_options_that_a_resumed_training_cannot_change_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options in ({"seed": 5}, {"epochs": 2}, {"initial_weights": "x"}):
        with pytest.raises(UsageError, match=r"continues with the options of the"):
            train_command("regression", resume=True, **options)
    with pytest.raises(VestalError, match="no interrupted training of regression"):
        train_command("regression", resume=True, device="cpu")


def test_runs_are_pinned_by_their_folders(trained_project):
    recipe = load_recipe(trained_project, "mnist")
    newest = str(trained_project.runs / "mnist" / "2")
    settings = Settings(teacher="mnist", initial_weights="mnist")
    pinned = Distillation(trained_project, "mnist", recipe, settings).settings
    assert (pinned.teacher, pinned.initial_weights) == (newest, newest)
    pinned = Pruning(trained_project, "mnist", recipe, Settings(prune=0.5)).settings
    assert pinned.initial_weights == newest


def test_settings_of_another_version_are_refused(tmp_path):
    folder = tmp_path / "runs" / "mnist" / "1"
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text('{"dataset": "digits", "start": null}')
    with pytest.raises(VestalError, match=r"settings\.json does not hold the settings of this"):
        resume(Project(tmp_path), "mnist")


@pytest.mark.slow
def test_a_resumed_training_gives_the_same_weights_as_an_uninterrupted_one(killed, tmp_path):
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


def test_without_an_interrupted_training_resume_is_refused(tmp_path, trained_project):
    with pytest.raises(VestalError, match=r"no interrupted training of mnist in .* to resume"):
        resume(trained_project, "mnist")
    with pytest.raises(UsageError, match="is not an interrupted training"):
        resume(Project(tmp_path), "mnist", tmp_path)
