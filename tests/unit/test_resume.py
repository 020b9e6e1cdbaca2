"""A training that is killed goes on where it was, and ends as if nothing had been."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

from vestal.errors import UsageError, VestalError
from vestal.project import Project
from vestal.runs import Run
from vestal.training.compressing import Settings
from vestal.training.train import resume, train

EPOCHS = 60


def epochs_done(folder):
    history = folder / "history.json"
    return len(json.loads(history.read_text())) if history.is_file() else 0


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A project whose training of 60 epochs was killed after five or so."""
    project = Project(tmp_path_factory.mktemp("killed"))
    command = [sys.executable, "-m", "vestal", "train", "regression", "--epochs", str(EPOCHS)]
    with subprocess.Popen(command, cwd=project.root, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while epochs_done(project.runs / "regression" / "1") < 5:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    return project


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
