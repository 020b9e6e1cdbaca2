"""Inputs and output of `vestal run`, what it loads, and how it waits for a change."""

from __future__ import annotations

import io
import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from vestal.archive.runnable import Runnable, find_runnable
from vestal.archive.watching import state_of, wait_for_change
from vestal.cli import run_output
from vestal.cli.run import _Command
from vestal.cli.run_inputs import RunInputs, requests_of
from vestal.errors import UsageError
from vestal.inprocess import profiling
from vestal.inprocess.frontend import Batch, Frontend, RawRequest
from vestal.inprocess.messages import RefusedRequest, Response
from vestal.inprocess.timing import StepClock, Times
from vestal.mar.layout import MANIFEST
from vestal.mar.manifest import read_manifest
from vestal.mar.store import find_archive
from vestal.model_folders import find_model
from vestal.project import Project


def test_files_are_sent_with_the_content_type_of_their_suffix(tmp_path):
    names = {
        "a.png": "image/png",
        "b.JPG": "image/jpeg",
        "c.json": "application/json",
        "d.txt": "text/plain; charset=utf-8",
        "e.csv": "text/csv",
        "f": "application/octet-stream",
    }
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    sent = RunInputs([str(tmp_path)]).read()
    assert {Path(each.name).name: each.content_type for each in sent} == names
    assert [each.body.decode() for each in sent] == list(names)


def test_texts_json_stdin_and_headers(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    inputs = RunInputs(["-"], ["café"], ["[1]"], ["X-A: b: c"])
    for _ in range(2):  # stdin is read once and kept
        assert [(each.body, each.content_type, each.headers) for each in inputs.read()] == [
            (b"\xff", "application/octet-stream", {"X-A": "b: c"}),
            ("café".encode(), "text/plain; charset=utf-8", {"X-A": "b: c"}),
            (b"[1]", "application/json", {"X-A": "b: c"}),
        ]


def test_rows_of_a_table_are_sent_with_the_columns_that_the_model_takes(tmp_path):
    number = {"type": "number"}
    schema = {
        "type": "object",
        "properties": {"bmi": number, "bp": number},
        "required": ["bmi", "bp"],
    }
    table = tmp_path / "rows.csv"
    table.write_text("bp,bmi,progression\n90,25,150\n2_5,25,1\n")
    read = RunInputs([str(table)], ["text"], [], ["X-A: b"]).read()
    sent = requests_of(read, lambda: schema)
    assert [(one.name, json.loads(one.body)) for one in sent[:2]] == [
        (f"{table}, row 1", {"bp": 90, "bmi": 25}),
        (f"{table}, row 2", {"bp": "2_5", "bmi": 25}),
    ]
    assert [(one.content_type, one.headers) for one in sent] == [
        ("application/json", {"X-A": "b"}),
        ("application/json", {"X-A": "b"}),
        ("text/plain; charset=utf-8", {"X-A": "b"}),
    ]
    (whole,) = RunInputs([str(table)], headers=["Content-Type: text/csv"]).read()
    assert whole.body == table.read_bytes()


def test_a_content_type_header_replaces_the_others():
    (sent,) = RunInputs([], ["a,b"], [], ["content-type: text/csv"]).read()
    assert (sent.content_type, sent.headers) == ("text/csv", {})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (RunInputs(bodies=["seven"]), "is not JSON"),
        (RunInputs(headers=["no colon"]), "NAME: VALUE"),
        (RunInputs(headers=["X-A: b\r\nX-B: c"]), "NAME: VALUE"),
        (RunInputs(["nothing.png"]), "no file or folder nothing.png"),
    ],
)
def test_invalid_inputs_are_errors(inputs, message):
    with pytest.raises(UsageError, match=message):
        inputs.read()


def test_a_body_that_is_too_large_gets_an_empty_413():
    frontend = Frontend(max_request_size=4)
    frontend.receive(RawRequest("", b"four"))
    with pytest.raises(RefusedRequest, match="max_request_size") as refused:
        frontend.receive(RawRequest("", b"fiver"))
    assert (refused.value.status, refused.value.body()) == (413, b"")


def test_limits_come_from_config_properties(tmp_path):
    project = Project(tmp_path)
    packaged = Frontend.of(project)
    assert (packaged.max_request_size, packaged.decode) == (20_000_000, False)
    project.config.write_text("max_request_size: 7\ndecode_input_request True\n")
    assert Frontend.of(project) == Frontend(7, decode=True)
    project.config.write_text("inference_address: http\\://127.0.0.1\\:9000\n")
    assert Frontend.of(project) == packaged
    project.config.write_text("max_request_size=much\n")
    with pytest.raises(
        UsageError, match="line 1: max_request_size is 'much'; expected a number of"
    ):
        Frontend.of(project)


def test_a_runnable_is_found_by_path_by_archive_and_by_model(tmp_path):
    project = Project(tmp_path)
    project.model_store.mkdir()
    packed = project.model_store / "mnist-1.0.mar"
    packed.touch()
    assert find_runnable(project, str(packed)).archive == packed
    assert find_runnable(project, "mnist-1.0").archive == packed
    assert find_runnable(project, "mnist", version="1.0").archive == packed
    model = find_runnable(project, "mnist", engine="eager")
    assert (model.archive, model.name, model.engine) == (None, "mnist", "eager")
    with pytest.raises(UsageError, match="--engine cannot be set"):
        find_runnable(project, "mnist-1.0", engine="eager")
    with pytest.raises(UsageError, match="the project's models are"):
        find_runnable(project, "mnits")


def write_folder(folder, version="1.0"):
    (folder / "MAR-INF").mkdir(parents=True)
    model = {"modelName": "m", "modelVersion": version, "handler": "h.py"}
    (folder / MANIFEST).write_text(json.dumps({"model": model}))
    return folder


def test_an_archive_may_be_nested_in_a_folder(tmp_path):
    project = Project(tmp_path)
    write_folder(tmp_path / "outer" / "inner")
    assert find_runnable(project, "outer").archive == tmp_path / "outer"
    assert find_archive(project, "outer") == tmp_path / "outer"
    manifest = read_manifest(tmp_path / "outer")
    assert (manifest.name, manifest.version) == ("m", "1.0")


def test_a_version_that_differs_from_the_archive_is_refused(tmp_path):
    project = Project(tmp_path)
    write_folder(tmp_path / "m-1.0")
    assert find_runnable(project, "m-1.0", version="1.0").archive == tmp_path / "m-1.0"
    with pytest.raises(UsageError, match=r"has version 1\.0, which contradicts --version 9\.9"):
        find_runnable(project, "m-1.0", version="9.9")


def test_paths_start_at_the_projects_root(tmp_path, monkeypatch):
    project = Project(tmp_path / "project")
    folder = write_folder(project.root / "m")
    (project.root / "w.pth").touch()
    monkeypatch.chdir(tmp_path)
    assert find_runnable(project, "m").archive == folder
    assert find_runnable(project, "mnist", weights="w.pth").weights == str(project.root / "w.pth")
    monkeypatch.chdir(project.root)
    assert find_runnable(project, "m").archive == Path("m")


def test_the_sources_of_a_runnable_are_watched(tmp_path):
    project = Project(tmp_path)
    runs = [project.runs / "mnist" / number for number in "12"]
    for run in runs:
        run.mkdir(parents=True)
        (run / "training.json").touch()
    home, weights = find_model(project, "mnist"), tmp_path / "w.pth"
    weights.touch()
    watched = find_runnable(project, "mnist").places()
    assert runs[1] in watched
    assert home / "handler.py" in watched
    assert not {runs[0], home} & set(watched)
    assert {home, weights} <= set(find_runnable(project, "mnist", weights=str(weights)).places())
    assert runs[0] in find_runnable(project, "mnist", weights=str(runs[0])).places()


def test_a_trace_is_written_to_this_folder_whatever_the_name_of_the_model(
    tmp_path, monkeypatch, capsys
):
    traces = []
    monkeypatch.setattr(
        profiling, "profile", lambda loaded, batch, trace: traces.append(trace) or []
    )
    monkeypatch.chdir(tmp_path)
    command = _Command(Runnable(Project(tmp_path), "m"), RunInputs(), 1, False, False, True, False)
    facts = {}
    named = SimpleNamespace(name="../../x", version="1/0")
    assert command._profiled(named, Frontend(), [], facts) == []
    assert [trace.parent for trace in traces] == [tmp_path]
    command._show(facts, [], [])
    assert traces[0].name in capsys.readouterr().out.replace("\n", "")


def test_a_change_is_noticed_but_caches_are_ignored(tmp_path):
    source, cache = tmp_path / "handler.py", tmp_path / "__pycache__" / "handler.pyc"
    cache.parent.mkdir()
    source.write_text("one")
    before = state_of([tmp_path])
    assert list(before) == [source]
    cache.touch()
    found = []
    waiting = threading.Thread(
        target=lambda: found.extend(wait_for_change(lambda: [tmp_path], before, 0.01))
    )
    waiting.start()
    source.write_text("another")
    waiting.join(10)
    assert found == [source]


def test_a_removed_file_is_a_change(tmp_path):
    source = tmp_path / "handler.py"
    source.write_text("one")
    before = state_of([source])
    source.unlink()
    assert wait_for_change(lambda: [source], before, 0.01) == [source]


def test_steps_are_timed_and_marked():
    class Handler:
        def handle(self):
            return self.inference(self.preprocess())

        def preprocess(self):
            return 20

        def inference(self, data):
            return data + 1

    handler, marked = Handler(), []

    class Mark:
        def __init__(self, step):
            marked.append(step)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    clock = StepClock(handler.handle)
    clock.mark = Mark
    result, times = clock.run(handler.handle)
    assert result == 21
    assert marked == ["decode", "forward"]
    assert times.encode is None
    assert 0 < times.decode + times.forward <= times.total


def test_a_handler_function_has_no_steps():
    _, times = StepClock(print).run(lambda: None)
    assert (times.decode, times.forward, times.encode) == (None, None, None)


def test_facts_are_complete_and_valid_json(capsys):
    answers = [
        Response(200, {"content-type": "application/json"}, b'{"label": "7"}'),
        Response(200, {}, b'{"a": NaN}'),
        Response(200, {}, b"\xff"),
        Response(413, {}, b"", reached=False),
    ]
    sent = [RawRequest(f"input {number}", b"") for number in range(4)]
    batch = Batch(sent, answers, Times(0.5, 0.1, 0.2, 0.1))
    facts = json.loads(json.dumps(run_output.facts([batch]), allow_nan=False))
    bodies = [
        {key: each[key] for key in ("json", "text", "base64") if key in each}
        for each in facts["answers"]
    ]
    assert bodies == [
        {"json": {"label": "7"}},
        {"text": '{"a": NaN}'},
        {"base64": "/w=="},
        {"text": ""},
    ]
    assert [each["reached_handler"] for each in facts["answers"]] == [True, True, True, False]
    assert facts["batches"][0]["seconds"]["forward"] == 0.2
    run_output.show([batch])
    shown = capsys.readouterr().out
    assert "input 3  413  refused by TorchServe, before the handler" in shown
    assert "decode 100.00 ms, forward 200.00 ms" in shown
    assert "<1 bytes>" in shown
