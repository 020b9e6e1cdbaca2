"""`vestal run` and `vestal diff` as processes: breakpoints, watching, two copies of handlers."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from doubling import write_doubler

import vestal.cli
import vestal_handlers

SECONDS = 120
COMMANDS = """
import sys, typer
import vestal.cli.app
from vestal.cli.run import run
app = typer.Typer()
app.command()(run)
app.callback()(lambda: None)
vestal.cli.app.app = app
vestal.cli.main()
"""
BREAKPOINT = (
    "def encode(self, output, instance):",
    "def encode(self, output, instance):\n        breakpoint()",
)


@pytest.fixture
def doubler(tmp_path):
    folder = tmp_path / "doubler"
    folder.mkdir()
    write_doubler(folder)
    return folder


def carry_handlers(folder, marker):
    """Give the archive its own copy of vestal_handlers, with a marker that its predictions show."""
    package = Path(vestal_handlers.__file__).parent
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / package.name / "__init__.py").open("a") as source:
        source.write(f"\nMARKER = {marker!r}\n")
    edit(
        folder / "handler.py",
        'return {"doubled": output.item()}',
        'import vestal_handlers\n\n        return {"label": vestal_handlers.MARKER, '
        '"doubled": output.item()}',
    )


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def start(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-c", COMMANDS, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


@pytest.fixture
def diff(monkeypatch, tmp_path, capsys):
    """Run `vestal diff` in this process, with a child process for each archive."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["vestal", "diff", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            vestal.cli.main()
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return ended.value.code, printed.out, printed.err

    return run


def finish(process, given=None):
    output, _ = process.communicate(given, timeout=SECONDS)
    assert "Traceback" not in output, output
    return process.returncode, output


@pytest.mark.slow
def test_a_breakpoint_in_a_handler_works(doubler, tmp_path):
    (doubler / "model-config.yaml").write_text("handler: {warm_up: false}\n")
    edit(doubler / "handler.py", *BREAKPOINT)
    process = start("run", doubler, "--body", "20.5", cwd=tmp_path)
    code, output = finish(process, "p f'{output.item()} here'\nc\n")
    assert code == 0, output
    assert "'41.0 here'" in output
    assert '{"doubled": 41.0}' in output
    assert re.search(r"batch of 1, decode [\d.]+ ms, forward [\d.]+ ms, encode", output)


@pytest.mark.slow
def test_watch_predicts_again_after_every_edit_until_ctrl_c(doubler, tmp_path):
    (doubler / "helper.py").write_text("FACTOR = 1\n")
    edit(doubler / "handler.py", "output.item()", "output.item() * __import__('helper').FACTOR")
    output = tmp_path / "output"
    with output.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMANDS, "run", str(doubler), "--body", "1.5", "--watch"],
            stdout=stream,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
        )
    try:
        wait_for(output, '{"doubled": 3.0}', "Ctrl-C stops")
        (doubler / "helper.py").write_text("FACTOR = 1 +\n")
        wait_for(output, "does not load", "SyntaxError|invalid syntax")
        (doubler / "helper.py").write_text("FACTOR = 10\n")
        wait_for(output, '{"doubled": 30.0}', "(?s)(Ctrl-C stops.*){3}")
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()
    assert output.read_text().splitlines()[-1] == "Stopped"
    assert "Traceback" not in output.read_text()


def wait_for(file, *patterns):
    deadline = time.monotonic() + SECONDS
    while not all(re.search(pattern, file.read_text()) for pattern in patterns):
        assert time.monotonic() < deadline, file.read_text()
        time.sleep(0.05)


def test_two_archives_are_compared_each_with_its_own_handlers(doubler, tmp_path, diff):
    other = tmp_path / "other"
    shutil.copytree(doubler, other)
    carry_handlers(doubler, "one")
    carry_handlers(other, "two")
    edit(other / "handler.py", "return {", "output = output + 0.5\n        return {")
    edit(other / "model-config.yaml", "8", "4")
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name, value in {"a.json": 1.5, "b.json": "no number", "c.json": 3}.items():
        (inputs / name).write_text(json.dumps(value))
    code, output, errors = diff(doubler, other, "--inputs", inputs, "--json", "--timing")
    assert code == 1, errors
    found = json.loads(output)
    answers = found["answers"]
    assert (answers["inputs"], answers["different"], answers["labels"]) == (3, 2, 2)
    assert (answers["statuses"], answers["largest_value_difference"]) == (0, 0.5)
    assert all(seconds > 0 for seconds in answers["p50_seconds"])
    assert found["changes"]["config"] == [{"where": "batchSize", "before": 8, "after": 4}]
    assert {m["name"] for m in found["changes"]["members"]} == {
        *("handler.py", "model-config.yaml", "vestal_handlers/__init__.py")
    }


@pytest.fixture
def compare(doubler, tmp_path):
    """Run `vestal diff` of an archive with itself on a terminal.

    Returns its output, and how many predictions the two copies made.
    """
    (tmp_path / "one.json").write_text("1.5")
    counting = "open({!r}, 'a').write('x')\n        return {{".format(str(tmp_path / "predicted"))
    edit(doubler / "handler.py", "return {", counting)
    command = [sys.executable, "-m", "vestal", "diff", doubler, doubler, "--inputs", "one.json"]

    def run(*options):
        (tmp_path / "predicted").write_text("")
        terminal, end = pty.openpty()
        done = subprocess.Popen([*command, *options], cwd=tmp_path, stdout=end, stderr=end)
        os.close(end)
        shown = b""
        with contextlib.suppress(OSError):  # Linux: the terminal is gone
            while piece := os.read(terminal, 4096):
                shown += piece
        os.close(terminal)
        assert done.wait(SECONDS) == 0, shown
        return shown.decode(), len((tmp_path / "predicted").read_text())

    return run


def test_a_comparison_shows_its_progress_and_measures_nothing(compare):
    shown, predictions = compare()
    assert "comparing predictions" in shown
    assert "0 of 1 prediction differs" in shown
    assert "Latency" not in shown
    assert predictions < 40  # which --timing adds


@pytest.mark.slow
def test_with_timing_40_more_predictions_are_made_and_their_latency_is_shown(compare):
    _, untimed = compare()
    shown, timed = compare("--timing")
    assert "timing predictions" in shown
    assert "Latency p50" in shown
    assert timed == untimed + 40


@pytest.mark.slow
def test_a_handler_that_kills_its_process_is_an_error(doubler, tmp_path, diff):
    other = tmp_path / "other"
    shutil.copytree(doubler, other)
    edit(
        other / "handler.py",
        "raise KeyError",
        "print('last words', flush=True) or __import__('os')._exit(7) or KeyError",
    )
    (tmp_path / "broken.json").write_text('"broken decode"')
    code, _, errors = diff(doubler, other, "--inputs", "broken.json")
    assert code == 1
    expected = "other: its process ended with exit code 7 while answering broken.json: last words"
    assert expected in " ".join(errors.split())
