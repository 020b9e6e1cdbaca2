"""The wheel in a new environment and an empty folder, with a new model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import torch
from serving import serving

from vestal.model_folders import zoo

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
# Variables of the shell that could lead to this repository.
LEADS_HERE = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, its dependencies and pytest, and an empty folder."""

    venv: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in LEADS_HERE}
        system = [
            part
            for part in kept["PATH"].split(os.pathsep)
            if not Path(part).is_relative_to(REPOSITORY)
        ]
        return {**kept, "PATH": os.pathsep.join([str(self.venv / "bin"), *system])}

    def run(self, *command: str) -> str:
        return self._run(str(self.venv / "bin" / command[0]), *command[1:])

    def shell(self, line: str) -> str:
        """Run a line in a shell, as a reader types it."""
        return self._run("sh", "-c", line)

    def _run(self, *command: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout


def uv(*arguments: str) -> None:
    subprocess.run(
        [str(UV), *arguments, "--quiet"],
        cwd=REPOSITORY,
        env={name: value for name, value in os.environ.items() if name not in LEADS_HERE},
        check=True,
        timeout=900,
    )


def install(venv: Path, *packages: str) -> None:
    """Install packages with the pins of `make setup`, which are in uv's cache."""
    uv("venv", "--python", sys.executable, str(venv))
    backend = ["--torch-backend", "cpu"] if torch.__version__.endswith("+cpu") else []
    python = ("--python", str(venv / "bin" / "python"))
    uv("pip", "install", *python, *backend, "--constraint", "requirements.txt", *packages)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--wheel", "--out-dir", str(folder))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    root = tmp_path_factory.mktemp("wheel")
    (root / "folder").mkdir()
    install(root / "venv", f"vestal[{','.join(readme_extras())}] @ {wheel.as_uri()}", "pytest")
    return Installed(root / "venv", root / "folder")


def by_hand() -> str:
    """Return the section of the README about installation without the repository."""
    return re.split(r"^## ", (REPOSITORY / "README.md").read_text("utf-8"), flags=re.MULTILINE)[2]


def readme_extras() -> list[str]:
    found = re.search(r"pip install 'vestal\[(.*?)\]'", by_hand())
    assert found
    return found[1].split(",")


def test_nothing_of_the_repository_is_imported(installed):
    facts = json.loads(
        installed.run(
            "python",
            "-c",
            "import json, sys\n"
            "import vestal.cli.app, vestal.archive.pack, vestal.server, vestal.training.train\n"
            "import vestal.scaffold, vestal_handlers\n"
            "from vestal.model_folders import zoo\n"
            "files = [m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)]\n"
            "print(json.dumps([sys.path, files, str(zoo())]))",
        )
    )
    path, files, models = facts
    for place in (*path, *files, models):
        # "" is the current folder.
        assert not (installed.folder / place).resolve().is_relative_to(REPOSITORY), place
    assert Path(models).is_relative_to(installed.venv)


def test_the_wheel_has_the_zoo_and_the_templates_and_no_archives(installed):
    (package,) = installed.venv.glob("lib/python*/site-packages/vestal")
    own = {folder.name for folder in zoo().iterdir() if (folder / "recipe.py").is_file()}
    assert own <= {folder.name for folder in (package / "zoo").iterdir()}
    assert len(list((package / "templates").glob("*/recipe.py.template"))) == 4
    assert (package / "configuration" / "config.properties").is_file()
    assert (package / "py.typed").is_file()
    assert not list(package.rglob("*.mar"))


def test_from_an_empty_folder_to_a_served_prediction(installed):
    installed.run("vestal", "new", "mine", "--task", "regressor")
    assert "r2" in installed.run("vestal", "train", "mine")
    installed.run("vestal", "pack", "mine", "--version", "1.0")
    with serving(installed.folder) as server:
        variables = [f"{name}={value}" for name, value in installed.environment.items()]
        program = str(installed.venv / "bin" / "vestal")
        server.run(
            *("env", "-i", *variables, f"TMPDIR={server.temp}", program, "serve", "--port", "0")
        )
        ready = server.ready()
        answer = requests.post(
            f"{ready.inference}/predictions/mine",
            json={"bmi": 32.1, "bp": 101, "s5": 4.86},
            headers=server.token(),
            timeout=30,
        )
        assert answer.status_code == 200
        assert 25 < answer.json()["prediction"] < 346
        sample = "runs/mine/1/sample/input.json"
        (fact,) = json.loads(installed.run("vestal", "predict", "mine", sample, "--json"))
        assert 25 < fact["answer"]["prediction"] < 346
        lines = [" ".join(process.cmdline()) for process in server.processes()]
        assert any("model_service_worker" in line for line in lines)
        assert not [line for line in lines if str(REPOSITORY) in line]


def test_the_readme_by_hand_works_in_an_empty_folder(installed, tmp_path):
    here = Installed(installed.venv, tmp_path / "folder")
    with serving(here.folder) as server:
        (here.folder / "out.txt").unlink(missing_ok=True)
        assert list(here.folder.iterdir()) == []
        blocks = re.findall(r"```(sh|python)\n(.*?)```", by_hand(), re.DOTALL)
        lines = [
            (language, line)
            for language, block in blocks
            for line in (block.splitlines() if language == "sh" else [block])
        ]
        assert [language for language, _ in lines] == ["sh"] * 5 + ["python"]
        for language, line in lines:
            if line.startswith("vestal serve"):  # on free ports: 8080 may be in use
                variables = [f"{name}={value}" for name, value in here.environment.items()]
                command = f"exec {line} --port 0"
                server.run("env", "-i", *variables, f"TMPDIR={server.temp}", "sh", "-c", command)
                server.ready()
            else:
                here.shell(line if language == "sh" else f"python - <<'EOF'\n{line}\nEOF")


def test_the_test_of_a_new_model_passes(installed):
    if not (installed.folder / "models" / "mine").exists():
        installed.run("vestal", "new", "mine", "--task", "regressor")
    assert "3 passed" in installed.run("python", "-m", "pytest", "-q", "models/mine")


def test_without_extras_only_the_client_is_installed(wheel, tmp_path):
    install(tmp_path / "venv", f"vestal @ {wheel.as_uri()}")
    client = Installed(tmp_path / "venv", tmp_path)
    packages = json.loads(
        client.run(
            "python",
            "-c",
            "import json, vestal; from importlib.metadata import distributions\n"
            "assert vestal.Client\n"
            "print(json.dumps([found.name for found in distributions()]))",
        )
    )
    assert sorted(packages) == [
        *("certifi", "charset-normalizer", "idna", "requests", "urllib3", "vestal")
    ]
