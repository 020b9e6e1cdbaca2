"""A batch run that fails, is killed or meets another one: no row is lost or predicted twice."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
import zipfile

import psutil
import pytest

from vestal.batch.inputs import find_inputs
from vestal.batch.journal import Journal
from vestal.batch.run import run
from vestal.errors import UsageError, VestalError

pytestmark = pytest.mark.heavy

# A slow handler that fails whole batches and writes its inputs to a file. It is not Vestal's.
OTHER = """
import json, os, time

def handle(data, context):
    if data is None:
        return None
    bodies = [bytes(row["body"]).decode() for row in data]
    with open(os.environ["SEEN"], "a") as seen:
        seen.write("".join(body.strip() + "\\n" for body in bodies))
    time.sleep(float(os.environ.get("SLOW", 0)))
    if "bad" in bodies:
        raise ValueError("bad")
    return [json.dumps({"length": len(body)}) for body in bodies]
"""


@pytest.fixture
def other(tmp_path, monkeypatch):
    """An archive with a plain function as its handler."""
    archive = tmp_path / "other.mar"
    model = {
        "modelName": "other",
        "modelVersion": "1.0",
        "handler": f"other_{tmp_path.name.replace('-', '_')}.py",
        "configFile": "model-config.yaml",
    }
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("MAR-INF/MANIFEST.json", json.dumps({"model": model}))
        content.writestr(model["handler"], OTHER)
        content.writestr("model-config.yaml", "batchSize: 4\nmaxWorkers: 2\n")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    return archive


def test_if_a_handler_fails_whole_batches_only_the_bad_input_is_an_error(other, tmp_path):
    (tmp_path / "texts.txt").write_text("one\nbad\nthree\nfour\nfive\n")
    run(other, [str(tmp_path / "texts.txt")], tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["status"] for row in rows] == ["200", "503", "200", "200", "200"]
    assert json.loads(rows[2]["answer"]) == {"length": 5}


def inputs_of(kind, folder):
    """60 inputs: a text file, a CSV, or a folder of files in 20 folders."""
    lines = [f"text {number:03}" for number in range(60)]
    if kind == "texts":
        (folder / "texts.txt").write_text("\n".join(lines))
        return folder / "texts.txt"
    if kind == "table":
        (folder / "texts.csv").write_text("\n".join(["text", *lines]))
        return folder / "texts.csv"
    for number, line in enumerate(lines):
        file = folder / "photos" / str(number % 20) / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(line.ljust(200_000))  # more than a pipe between processes holds
    return folder / "photos"


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("files", signal.SIGKILL),
        pytest.param("files", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("texts", signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param("table", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_leaves_no_process_and_is_continued(kind, number, other, tmp_path):
    inputs = inputs_of(kind, tmp_path)
    out, journal = tmp_path / "out.jsonl", tmp_path / "out.jsonl.journal"
    command = [sys.executable, "-m", "vestal", "batch", str(other), str(inputs), "--out", str(out)]
    process = subprocess.Popen([*command, "--workers", "2"], env={**os.environ, "SLOW": "0.3"})
    deadline = time.monotonic() + 90
    while not journal.exists() or journal.read_bytes().count(b"\n") < 9:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert process.wait(30) in (-number, 128 + number)
    assert not psutil.wait_procs(children, timeout=15)[1]
    assert not out.exists()
    # An incomplete row, as if the process was killed while it wrote it.
    with journal.open("ab") as stream:
        stream.write(b'{"index": 59, "sta')
    summary = run(other, [str(inputs)], out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == len({(row["file"], row.get("row")) for row in rows}) == 60
    assert {row["status"] for row in rows} == {200}
    assert 8 <= summary.before < 60
    # At most the current batch was predicted twice.
    assert (tmp_path / "seen").read_text().count("\n") <= 64
    assert not journal.exists()


def test_a_journal_of_another_run_is_refused(other, tmp_path):
    text, out = tmp_path / "texts.txt", tmp_path / "out.csv"
    text.write_text("one\n")
    digests = {"archive": "x", "inputs": find_inputs([str(text)]).fingerprint}
    with Journal(tmp_path / "out.csv.journal", digests):
        pass
    with pytest.raises(UsageError, match=r"unfinished run with different archive\. Remove it"):
        run(other, [str(text)], out)
    text.write_text("one\ntwo\n")
    with pytest.raises(UsageError, match="different archive and inputs"):
        run(other, [str(text)], out)


def test_two_runs_cannot_write_the_same_output(tmp_path):
    file = tmp_path / "out.csv.journal"
    with (
        Journal(file, {}),
        pytest.raises(VestalError, match="another vestal batch is writing"),
        Journal(file, {}),
    ):
        pass
