"""Archives that are loaded in this process: made by Vestal or not, packed or not, valid or not."""

from __future__ import annotations

import json
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from doubling import write_doubler

from vestal.errors import UsageError, VestalError
from vestal.inprocess import Input, LoadedArchive
from vestal.inprocess.frontend import Frontend, RawRequest
from vestal.inprocess.profiling import profile
from vestal.mar.layout import MANIFEST

FUNCTION = """
import json

def handle(data, context):
    if data is None:
        return None
    print("a handler may print")
    return [json.dumps([type(value).__name__ for value in row.values()]) for row in data]
"""
# Opens a file and imports modules of its folder during a prediction.
LATE = """
from pathlib import Path

WORDS = Path("vocab.txt").read_text().split()

def handle(data, context):
    if data is None:
        return None
    import tools
    from parts import more
    return [f"{tools.NAME} {more.NAME} {WORDS[0]} {Path('vocab.txt').read_text()}" for _ in data]
"""


@pytest.fixture(scope="module")
def doubler(tmp_path_factory):
    return write_doubler(tmp_path_factory.mktemp("doubler"))


def write_function(folder, source=FUNCTION, **model):
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "function_handler.py").write_text(source)
    named = {"modelName": "f", "modelVersion": "2.0", "handler": "function_handler.py", **model}
    (folder / MANIFEST).write_text(json.dumps({"model": named}))
    return folder


def doubled(loaded):
    (answer,) = loaded.predict([Input.from_http(b"1.5", "application/json")])
    return answer.json()


def test_a_mar_a_tar_gz_and_a_folder_in_a_folder(doubler, tmp_path):
    packed, tarred = tmp_path / "doubler.mar", tmp_path / "doubler.tar.gz"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in doubler.rglob("*"):
            archive.write(file, file.relative_to(doubler))
    with tarfile.open(tarred, "w:gz") as archive:
        archive.add(doubler, "doubler")
    outer = tmp_path / "outer"
    outer.mkdir()
    (outer / "inner").symlink_to(doubler)
    for place in (packed, tarred, outer):
        with LoadedArchive(place) as loaded:
            assert doubled(loaded) == {"doubled": 3.0}, place
            assert (loaded.name, loaded.version) == ("doubler", "1.0")
            folder = loaded.folder
        assert folder.exists() == (place == outer), "what was unpacked is gone at the end"


def test_times_of_every_step(doubler):
    with LoadedArchive(doubler) as loaded:
        assert loaded.times is None
        doubled(loaded)
        times = loaded.times
        assert min(times.decode, times.forward, times.encode) > 0
        assert times.decode + times.forward + times.encode <= times.total


def test_a_handler_function(tmp_path):
    folder = write_function(tmp_path / "f")
    given = [Input.raw(b"{}", "application/json"), Input.raw(b"a", "text/plain"), Input.raw(b"")]
    with LoadedArchive(folder) as loaded:
        assert [a.json() for a in loaded.predict(given)] == [["bytearray"]] * 3
        assert loaded.times.decode is None
        assert loaded.handler.__name__ == "handle"
    with LoadedArchive(folder, decode=True) as loaded:
        assert [a.json() for a in loaded.predict(given)] == [["dict"], ["str"], ["bytearray"]]


def write_late(folder, name):
    write_function(folder, LATE)
    (folder / "vocab.txt").write_text(name)
    (folder / "parts").mkdir()
    for file in ("tools.py", "parts/more.py"):
        (folder / file).write_text(f"NAME = {name!r}\n")
    return folder


def text_of(loaded):
    (answer,) = loaded.predict([b"x"])
    return answer.body.decode()


def test_a_handler_works_in_its_folder_as_in_a_worker(tmp_path, monkeypatch):
    write_late(tmp_path / "late", "one")
    monkeypatch.chdir(tmp_path)
    with LoadedArchive(Path("late")) as loaded:
        assert text_of(loaded) == "one one one one"
        assert Path.cwd() == tmp_path
    assert not {"tools", "parts.more", "function_handler"} & sys.modules.keys()
    assert str(tmp_path / "late") not in sys.path


def test_archives_of_one_process_have_their_own_helpers(tmp_path):
    first, second = (write_late(tmp_path / name, name) for name in ("one", "two"))
    with LoadedArchive(first) as one, LoadedArchive(second) as two:
        for _ in range(2):
            assert text_of(two) == "two two two two"
            assert text_of(one) == "one one one one"
    (first / "tools.py").write_text("NAME = 'edited'\n")
    with LoadedArchive(first) as one:
        assert text_of(one) == "edited one one one"


def test_a_handler_without_a_description_is_an_error(tmp_path):
    source = FUNCTION.replace("[json.dumps(", "['no JSON' or (")
    with (
        LoadedArchive(write_function(tmp_path / "f", source)) as loaded,
        pytest.raises(VestalError, match="describes nothing"),
    ):
        loaded.describe()


def test_a_batch_that_fails_whole_gets_the_frontends_response(tmp_path):
    folder = write_function(tmp_path / "f", FUNCTION.replace("print(", "raise ValueError("))
    with LoadedArchive(folder) as loaded:
        answers = loaded.predict([b"a", b"b"])
    error = {"code": 503, "type": "InternalServerException", "message": "Prediction failed"}
    assert [(a.status, a.json()) for a in answers] == [(503, error)] * 2


def test_torchserves_own_image_classifier(tmp_path):
    """As packed by torch-model-archiver with `--handler image_classifier`."""
    from imaging import encoded, seven

    folder = write_function(
        tmp_path / "f", handler="image_classifier", serializedFile="m.pt", modelName="stock"
    )
    (folder / "index_to_name.json").write_text(json.dumps({str(n): f"class {n}" for n in range(6)}))
    net = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 6)
    )
    torch.jit.script(net).save(str(folder / "m.pt"))
    with LoadedArchive(folder) as loaded:
        (answer,) = loaded.predict([Input.from_http(encoded(seven().convert("RGB")), "image/png")])
        assert answer.status == 200
        assert sum(answer.json().values()) == pytest.approx(1, abs=0.3)
        assert all(name.startswith("class ") for name in answer.json())
        assert loaded.times.forward > 0


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), UsageError, "is not a model archive"),
        (lambda folder: (folder / MANIFEST).write_text("{}"), UsageError, "no object named model"),
        (lambda folder: (folder / "handler.py").unlink(), VestalError, "does not load"),
        (lambda folder: (folder / "handler.py").write_text("1/0"), VestalError, "division by zero"),
        (lambda folder: (folder / "model.pt").unlink(), VestalError, "model.pt"),
        (
            lambda folder: (folder / "model-config.yaml").write_text("batchSize: many"),
            VestalError,
            "batchSize is 'many' in model-config.yaml",
        ),
    ],
)
def test_an_archive_that_does_not_load_is_an_error(tmp_path, spoil, kind, message):
    folder = write_doubler(tmp_path)
    spoil(folder)
    with pytest.raises(VestalError, match=message) as raised:
        LoadedArchive(folder)
    assert raised.type is kind


def test_a_file_that_is_not_an_archive_is_an_error(tmp_path):
    for content in (b"", b"PK\3\4 cut off", b"\x1f\x8b cut off", b"text"):
        (tmp_path / "a.mar").write_bytes(content)
        with pytest.raises(UsageError, match="cannot be unpacked"):
            LoadedArchive(tmp_path / "a.mar")
    with pytest.raises(UsageError, match="cannot be read"):
        LoadedArchive(tmp_path / "nothing.mar")


def test_refused_requests_do_not_reach_the_handler_and_keep_their_place(doubler):
    sent = [
        RawRequest("good", b"1.5", "application/json"),
        RawRequest("broken form", b"=1", "application/x-www-form-urlencoded"),
        RawRequest("large", b"1" * 11),
        RawRequest("also good", b"2", "application/json"),
        RawRequest("next", b"3", "application/json"),
    ]
    with LoadedArchive(doubler) as loaded:
        batches = Frontend(max_request_size=10).predict(loaded, sent, 4)
        assert [[a.status for a in batch.responses] for batch in batches] == [
            [200, 500, 413, 200],
            [200],
        ]
        assert [a.reached for a in batches[0].responses] == [True, False, False, True]
        assert loaded.handler.sizes[-2:] == [2, 1]


def test_a_profile_shows_operators_and_steps(doubler, tmp_path):
    trace = tmp_path / "new" / "trace.json"
    with LoadedArchive(doubler) as loaded:
        operators = profile(loaded, lambda: doubled(loaded), trace, top=50)
    names = {each.name for each in operators}
    assert {"decode", "forward", "encode", "aten::where"} <= names
    assert operators == sorted(operators, key=lambda each: -each.own)
    assert all(0 <= each.own <= each.total + 1e-6 for each in operators)
    events = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"decode", "forward", "encode"} <= events
