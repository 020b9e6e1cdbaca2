"""What all tests share: a marker by folder, and a trained, packed model made once a session."""

from __future__ import annotations

import gc
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from vestal.openmp import passive_wait_variables
from vestal.project import Project

os.environ.update(
    passive_wait_variables(os.environ)
)  # as the commands do, before torch is imported
settings.register_profile("quick", max_examples=20)
# What other tests have left must not be destroyed in a child: OpenVINO's destructors wait there for
# threads that it does not have.
os.register_at_fork(before=gc.collect)

# The zoo's own models take minutes for an epoch of all their data: these recipes take a little.
LITTLE = {
    "gpt2": """

from dataclasses import replace


def few():
    splits = pydoc_topics()
    return replace(splits, train=splits.train.pick(range(12)))


recipe = replace(recipe, datasets={"pydoc_topics": DataSet(load=few, epochs=1)})
""",
    "resnet18": """

from dataclasses import replace

import numpy as np


def few():
    splits = digits(size=64, channels=3)
    parts = {part: getattr(splits, part).pick(np.arange(64)) for part in ("train", "validation")}
    return replace(splits, test=splits.test.pick(np.arange(8)), **parts)


chosen = DataSet(load=few, epochs=1, transforms="transforms_small")
recipe = replace(recipe, datasets={"digits": chosen})
""",
}
FOLDERS = ("unit", "handlers", "e2e", "chaos")
PLAIN_SERVER = ("test_client_live", "test_client_management_live", "test_register_verified")
"""Files that share the server of the fixture `plain_project`."""
GATEWAY = "tests/e2e/gateway/"
"""A folder whose files share the server of the fixture `served`."""

# The developer's terminal and CI's settings decide nothing here: output is neither wrapped nor
# coloured, unless a test sets these itself.
for name in (
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "NO_COLOR", "FORCE_COLOR", "PY_COLORS"),
    *("CLICOLOR_FORCE", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "GITHUB_ACTIONS"),
):
    os.environ.pop(name, None)


def pytest_configure(config: pytest.Config) -> None:
    """In `make test`, let Java compile less: its servers live for seconds."""
    if config.option.markexpr == "not slow":
        # A start takes a third less of Java's CPU. `make slow` runs Java with its defaults.
        os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test's folder is its marker."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    if folder in FOLDERS:
        item.add_marker(folder)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute files as `--dist loadfile` does, but files that share a server together."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            if Path(file).stem in PLAIN_SERVER:
                return "plain server"
            return GATEWAY if file.startswith(GATEWAY) else file

    return ByServer(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)


@pytest.fixture
def cli(monkeypatch, tmp_path, capsys):
    """Run `vestal ...` in the test's folder; return exit code, stdout and stderr."""
    import vestal.cli

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vestal", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            vestal.cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return ended.value.code or 0, captured.out, captured.err

    return run


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Project], None]):
    """A project that one process of the session makes (-n), and each gets a copy of."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = shared / name
    with FileLock(f"{made}.lock"):
        if not made.exists():
            project = Project(shared / f"{name}-unfinished")
            make(project)
            project.root.rename(made)
    return Project(shutil.copytree(made, factory.mktemp("project") / name))


@pytest.fixture(scope="session")
def trained_project(tmp_path_factory: pytest.TempPathFactory):
    """A project with two short trainings of mnist on digits, packed as 1.0 and 2.0."""
    from vestal.archive.pack import pack
    from vestal.training.settings import Settings
    from vestal.training.train import train

    def make(project: Project) -> None:
        for version, seed in (("1.0", 0), ("2.0", 1)):
            chosen = Settings(dataset="digits", epochs=2, seed=seed, device="cpu")
            run = train(project, "mnist", chosen)
            pack(project, "mnist", version=version, weights=run.folder)

    return made_once(tmp_path_factory, "trained", make)


@pytest.fixture(scope="session")
def zoo_project(trained_project, tmp_path_factory: pytest.TempPathFactory):
    """A project with every model of the zoo, trained for as little as does, packed as 1.0."""
    from vestal.archive.pack import pack
    from vestal.model_folders import zoo
    from vestal.training.settings import Settings
    from vestal.training.train import train

    digits = {"dataset": "digits", "epochs": 1}
    trainings: dict[str, dict[str, Any]] = {
        "fashion_mlp": digits,
        "lenet5": digits,
        "resnet18": digits,
        "gpt2": {"epochs": 1},
        "regression": {"epochs": 10},
        "simplenet": {"epochs": 2},
    }

    def make(project: Project) -> None:
        shutil.copytree(trained_project.runs / "mnist" / "1", project.runs / "mnist" / "1")
        pack(project, "mnist", version="1.0")
        for name, little in LITTLE.items():
            shutil.copytree(zoo() / name, project.models / name)
            with (project.models / name / "recipe.py").open("a", encoding="utf-8") as own:
                own.write(little)
        for name, chosen in trainings.items():
            train(project, name, Settings(device="cpu", **chosen))
            pack(project, name, version="1.0")

    return made_once(tmp_path_factory, "zoo", make)


@pytest.fixture(scope="session")
def plain_project(tmp_path_factory: pytest.TempPathFactory):
    """A server for the files of PLAIN_SERVER. Each test leaves `echo` 1.0 as it is."""
    from plain_archives import serve_plain_archives

    with serve_plain_archives(tmp_path_factory.mktemp("plain")) as project:
        yield project
