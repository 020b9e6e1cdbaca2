"""The guides that lead from an empty folder to a served model."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import run_page
from serving import Serving, serving

from vestal.configuration.ports import free_ports

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"


def test_getting_started_ends_with_the_better_version_served(tmp_path):
    with serving(tmp_path / "project") as server:
        printed = run_page(DOCS / "getting-started.md", server)
    assert "Packed" in printed
    assert printed.endswith("[('mnist', '2.0')]\n")


def test_operate_replaces_a_version_and_goes_back(trained_project):
    project = Serving(trained_project.root, trained_project.root)
    page = (DOCS / "guides" / "operate.md").read_text("utf-8")
    try:
        printed = run_page(DOCS / "guides" / "operate.md", project)
    finally:
        if trained_project.state.joinpath("keeper_token").exists():  # a command failed
            subprocess.run([sys.executable, "-m", "vestal", "stop"], cwd=trained_project.root)
    assert page.count("vestal apply") >= 2
    versions = re.findall(r"mnist.*?(\d\.\d)", printed)
    assert {"1.0", "2.0"} <= set(versions)
    assert not trained_project.ready_file.exists()


def test_canary_replaces_a_version_step_by_step(trained_project, tmp_path):
    root = tmp_path / "project"  # without the state of other tests
    for folder in ("runs", "model_store"):
        shutil.copytree(trained_project.root / folder, root / folder)
    project = Serving(root, tmp_path)
    (port,) = free_ports("127.0.0.1", 1)
    try:
        # Other tests run meanwhile, and may slow down only the canary.
        changes = {"8000": str(port), "--max-p99-ratio 2": "--max-p99-ratio 100"}
        printed = run_page(DOCS / "guides" / "canary.md", project, changes)
    finally:
        if project.project.state.joinpath("keeper_token").exists():  # a command failed
            subprocess.run([sys.executable, "-m", "vestal", "stop"], cwd=root)
    assert "mnist 2.0: promoted" in printed
    assert "mnist 2.0 gets 50 % of the requests, after " in printed
    assert "mnist 1.0 -> 2.0" in printed  # in the history
    assert not project.project.ready_file.exists()


def test_a_hugging_face_folder_is_served(tmp_path):
    with serving(tmp_path / "project") as server:
        printed = run_page(DOCS / "guides" / "hugging-face.md", server)
    assert "Task: text-classification" in printed
    assert '{"label": ' in printed  # by `run`
    assert re.search("dull and endless film +(positive|negative) ", printed)  # by `predict`
    assert "Created" in printed


def test_write_a_handler_serves_a_detector(tmp_path):
    with serving(tmp_path / "project") as server:
        printed = run_page(DOCS / "guides" / "write-a-handler.md", server)
    assert "1 passed" in printed
    assert '"objects"' in printed


def test_make_a_model_faster_compares_int8_with_fp32(tmp_path):
    with serving(tmp_path / "project") as server:
        printed = run_page(DOCS / "guides" / "optimize.md", server)
    assert "Calibrated with 300 inputs of digits (training split)" in printed
    assert "(a drop of" in printed
    assert "0 of 1 prediction differs" in printed
