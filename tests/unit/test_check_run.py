"""`vestal check --run`: findings that need the archive to be loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from check_archives import Draft, ours, saved, simple

import vestal.cli
from vestal.checking import check

pytestmark = pytest.mark.heavy

LOADS = (
    "import json, os, sys, time\n\n\ndef handle(data, context):\n    if data is None:\n        {}\n"
)
# Writes to every pipe of the process, including the one for replies to Vestal.
NOISE = """for pipe in range(3, 20):
            try:
                os.write(pipe, {!r})
            except OSError:
                pass
        {}"""
HELPED = """
def handle(data, context):
    if data is None:
        return None
    import helper
    return [str(len(helper.called(data)))]
"""


def found_in(draft: Draft, folder: Path, **limits: Any) -> dict[str, str]:
    report = check(draft.write(folder / "model.mar"), run=True, **limits)
    assert report.ran
    return {f.code: f.meaning for f in report.findings if f.severity != "note"}


def loading(line: str) -> Draft:
    """A handler that runs this line while it is loaded."""
    return simple(LOADS.replace("{}", line) + "    return data\n")


def test_a_good_archive_loads_and_predicts_its_sample(tmp_path):
    assert found_in(ours(), tmp_path) == {}


@pytest.mark.slow
def test_weights_of_another_architecture_are_an_error(tmp_path):
    draft = ours()
    draft.files["model.pth"] = saved({"1.weight": torch.zeros(3, 64), "1.bias": torch.zeros(3)})
    found = found_in(draft, tmp_path)
    assert found.keys() == {"weights-mismatch"}
    assert "1.weight" in found["weights-mismatch"]


@pytest.mark.slow
def test_a_different_prediction_and_a_different_machine_are_found(tmp_path):
    draft = ours()
    weights = {"1.weight": torch.zeros(2, 64), "1.bias": torch.tensor([1.0, 0.0])}
    draft.files["model.pth"] = saved(weights)
    assert draft.bill is not None
    draft.bill["built_on"] = {"python": "3.9.1", "torch": "99.0", "machine": "riscv64"}
    found = found_in(draft, tmp_path)
    assert found.keys() == {"answer-differs", "built-elsewhere"}
    assert "probability" in found["answer-differs"]


def test_a_sample_that_its_handler_rejects_is_an_error(tmp_path):
    draft = ours()
    draft.files["sample/input.png"] = b"no image"
    found = found_in(draft, tmp_path)
    assert found.keys() == {"answer-refused"}
    assert "status 4" in found["answer-refused"]


@pytest.mark.parametrize(
    ("line", "limits", "code", "meaning"),
    [
        ("raise ValueError('no\x07 such\\nmodel')", {}, "load-failed", "ValueError: no"),
        ("os.kill(os.getpid(), 11)", {}, "crash", "signal SIGSEGV while loading"),
        pytest.param(
            "print('bye'); sys.stdout.flush(); os._exit(0)",
            {},
            "crash",
            "exit code 0 .* bye",
            marks=pytest.mark.slow,
        ),
        ("time.sleep(600)", {"seconds": 4.0}, "timeout", "loading had not ended after 4 s"),
        pytest.param("os._exit(3)", {}, "crash", "exit code 3", marks=pytest.mark.slow),
        pytest.param(
            NOISE.format(b"[1]\n", ""),
            {},
            "crash",
            "an invalid reply .* while loading",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            NOISE.format(b'{"st', "os._exit(3)"), {}, "crash", "exit code 3", marks=pytest.mark.slow
        ),
        pytest.param(
            "bytearray(1 << 34)",
            {"memory": 4 << 30},
            "memory",
            "MemoryError",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_finding_tells_how_loading_failed(tmp_path, line, limits, code, meaning):
    found = found_in(loading(line), tmp_path, **limits)
    assert found.keys() == {code}
    assert re.search(meaning, found[code])


@pytest.mark.slow
def test_a_handler_may_import_modules_and_open_files_of_its_folder_late(tmp_path):
    draft = loading("pass")
    draft.text("my_handler.py", "WORDS = open('words.txt').read()\n\n\n" + HELPED)
    draft.text("words.txt", "one")
    draft.text("helper.py", "def called(data):\n    return [open('words.txt').read()]\n")
    sample = {"input": "a.txt", "content_type": "text/plain", "answer": 1}
    draft.files |= {"sample/a.txt": b"a", "sample/sample.json": json.dumps(sample).encode()}
    assert found_in(draft, tmp_path) == {}


@pytest.mark.parametrize(
    "session",
    [
        pytest.param(False, id="its session", marks=pytest.mark.slow),
        pytest.param(True, id="a session of its own"),
    ],
)
def test_processes_that_an_archive_starts_are_killed(tmp_path, session):
    note = tmp_path / "pid"
    start = (
        f"import subprocess; p = subprocess.Popen(['sleep', '600'], start_new_session={session}); "
        f"open({str(note)!r}, 'w').write(str(p.pid))"
    )
    assert found_in(loading(start), tmp_path) == {}
    pid = int(note.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_a_lower_limit_of_the_shell_is_kept(tmp_path):
    """`ulimit -d`: no process may raise a hard limit."""
    archive = loading("bytearray(7 << 29)").write(tmp_path / "model.mar")
    command = f"ulimit -d {3 << 20}; exec {sys.executable} -m vestal check --run --json {archive}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "memory" in {found["code"] for found in json.loads(done.stdout)[0]["findings"]}


def test_an_archive_with_errors_is_not_run(tmp_path):
    draft = ours()
    draft.change("model-config.yaml", "batchSize", "batchsize")
    report = check(draft.write(tmp_path / "model.mar"), run=True)
    assert not report.ran
    assert [f.code for f in report.findings] == ["config-misspelt"]


def test_the_command_prints_json_and_its_exit_code_depends_on_errors(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bad = simple("async def handle(data, context):\n    return data\n").write(
        tmp_path / "bad[red].mar"
    )
    good = simple("def handle(data, context):\n    return data\n").write(tmp_path / "good.mar")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vestal", "check", *arguments])
        with pytest.raises(SystemExit) as ended:
            vestal.cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    code, out, _ = run("--json", str(bad), str(good))
    reports = json.loads(out)
    assert (code, [report["ok"] for report in reports]) == (1, [False, True])
    assert reports[0]["findings"][0]["code"] == "handler-methods"
    assert not reports[0]["ran"]
    _, table, _ = run(str(bad), str(good))
    assert "bad[red].mar  1 error, 1 note (read, not run)" in table
    assert "handler-methods" in table
    assert run(str(good))[0] == 0
    code, out, err = run("--json", "nowhere.mar", str(good))
    assert [report["ok"] for report in json.loads(out)] == [True]
    assert code != 0
    assert "no archive nowhere.mar" in err
    code, _, err = run("--memory", "inf", str(good))
    assert code != 0
    assert "--memory inf" in err
