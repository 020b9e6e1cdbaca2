"""Scripts that run before anything is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

SCRIPTS = Path(__file__).parents[2] / "scripts"


def check_python(preparation: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys\n{preparation}\nexec(open({str(SCRIPTS / 'check_python.py')!r}).read())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("preparation", "sentence"),
    [
        ("sys.version_info = (3, 9, 2)", "Vestal requires Python 3.11 or newer, but this is 3.9"),
        ("sys.modules['venv'] = None", "has no venv module. Install it"),
        ("sys.modules['ensurepip'] = None", "has no venv module. Install it"),
    ],
)
def test_an_unsuitable_python_is_reported_in_one_sentence(preparation, sentence):
    done = check_python(preparation)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_this_python_is_suitable():
    assert check_python("").returncode == 0


def test_the_lock_omits_the_cuda_libraries():
    pins = "nvidia-cublas==13\nnvidia-ml-py==13\ncuda-toolkit==13\ntriton==3\ntorch==2.15.0\n"
    done = subprocess.run(
        [sys.executable, SCRIPTS / "lock.py"],
        input=pins,
        capture_output=True,
        text=True,
        check=True,
    )
    kept = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert kept == ["nvidia-ml-py==13", "torch==2.15.0"]


def test_make_help_lists_every_target():
    done = subprocess.run(
        ["make", "--no-print-directory"],
        cwd=SCRIPTS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    for target in ("setup", "demo", "load", "test", "lint", "format", "type", "clean"):
        assert f"make {target} " in done.stdout
