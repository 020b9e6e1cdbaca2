"""The command line as a user meets it: sentences, exit codes, no traceback."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from pathlib import Path

import pytest

import vestal.cli
from vestal.cli.inputs import expand
from vestal.cli.labels import actual_labels
from vestal.cli.pack import _read_labels
from vestal.cli.serve import _inputs
from vestal.cli.train import free_version
from vestal.errors import UsageError
from vestal.mar.sample import Sample
from vestal.project import Project, ReadyFile
from vestal.testing import FakeServer


@pytest.fixture
def cli(monkeypatch, tmp_path, capsys):
    """Runs `vestal ...` in an empty folder; gives exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["vestal", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            vestal.cli.main()
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return ended.value.code or 0, captured.out, captured.err

    return run


def test_help_names_every_command(cli):
    code, out, _ = cli("--help")
    assert code == 0
    assert all(name in out for name in ("train", "pack", "serve", "predict", "load"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "mnits", "--dataset", "digits"), 2, "did you mean mnist?"),
        (("train", "mnist", "--dataset", "cifar"), 2, "it has digits, mnist"),
        (("train", "mnist", "--dataset", "mnist", "--data", "."), 1, "--dataset digits"),
        (("train", "mnist", "--dataset", "digits", "--epochs", "0"), 2, "at least 1"),
        (("pack", "mnist", "--version", "1.0"), 1, "vestal train mnist"),
        (("pack", "mnist", "--version", "1.0", "--weights", "nowhere"), 2, "no weights nowhere"),
        (("predict", "mnist", "nothing.png"), 2, "no file or folder nothing.png"),
        (("load", "mnist", "nothing"), 1, "no server runs here"),
        (("serve",), 1, "vestal pack"),
        (("fly",), 2, "No such command 'fly'"),
    ],
)
def test_a_users_mistake_is_a_sentence(cli, arguments, code, message):
    got, _, err = cli(*arguments)
    assert got == code, err
    assert message in " ".join(err.split())


def test_no_server_says_how_to_start_one(cli, tmp_path):
    (tmp_path / "seven.png").write_bytes(b"")
    code, _, err = cli("predict", "mnist", "seven.png")
    assert code == 1
    assert "no server runs here" in err
    assert "vestal serve" in err


def test_a_load_test_of_what_is_not_served_sends_nothing(cli, tmp_path):
    (tmp_path / "seven.png").write_bytes(b"png")
    with FakeServer() as server, server.client() as client:
        project = Project(tmp_path)
        project.state.mkdir()
        ready = ReadyFile(server.url, server.url, server.url, os.getpid(), None, [])
        project.ready_file.write_text(ready.to_json())
        server.answer("mnist", {"label": "7"})
        code, _, err = cli("load", "mnsit", "seven.png")
        assert (code, "model mnsit is not served; did you mean mnist?" in err) == (1, True), err
        client.scale("mnist", 0)
        code, _, err = cli("load", "mnist", "seven.png")
        assert (code, "mnist 1.0 has no worker that is READY" in err) == (1, True), err
        assert server.requests == []
    assert not Path("load").exists()


def test_train_and_pack_speak_json(cli, tmp_path):
    code, out, _ = cli("train", "mnist", "--dataset", "digits", "--epochs", 1, "--json")
    run = json.loads(out)
    assert (code, run["folder"]) == (0, str(tmp_path / "runs" / "mnist" / "1"))
    code, out, _ = cli("pack", "mnist", "--version", "1.0", "--json")
    assert code == 0
    assert json.loads(out)["archive"] == str(tmp_path / "model_store" / "mnist-1.0.mar")


def test_a_missing_extra_is_named(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)  # as if it were not installed
    for name in [n for n in sys.modules if n.startswith("vestal.training")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = cli("train", "mnist", "--dataset", "digits")
    assert code == 2
    assert "this command needs lightning: pip install 'vestal[train]'" in err


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_package_that_a_recipe_saves_with_is_missed_before_training(cli, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = cli("train", "fashion_mlp", "--dataset", "digits")
    assert code == 2
    assert f"this command needs {package}: pip install 'vestal[optimize]'" in err
    assert not Path("runs").exists()


def test_what_training_the_zoo_saves_with_comes_with_the_extra():
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    train = " ".join(extras["optional-dependencies"]["train"])
    assert all(f"{package}>=" in train for package in ("onnx", "onnxscript"))


def test_a_folder_gives_its_files_in_order(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/.hidden", ".git/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in expand([tmp_path])] == ["1.png", "2.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no files in"):
        expand([tmp_path / "empty"])


def test_the_folder_is_the_truth_where_it_is_a_label(tmp_path):
    files = [tmp_path / "7" / "x.png", tmp_path / "photos" / "y.png"]
    assert actual_labels(files, None, {"7", "8"}) == ["7", None]


def test_a_table_of_labels_wins(tmp_path):
    files = [tmp_path / "7" / "x.png", tmp_path / "7" / "y.png"]
    table = tmp_path / "labels.csv"
    table.write_text(f"x.png,3\n{files[1]}, 4\n")
    assert actual_labels(files, table, {"7"}) == ["3", "4"]


def test_labels_are_read_with_a_byte_order_mark_and_any_character(tmp_path):
    files = [tmp_path / "x.png", tmp_path / "y.png"]
    table = tmp_path / "labels.csv"
    table.write_text("\ufeffx.png,3\r\ny.png,a\u2028b\x0b\x85c\r\n", "utf-8", newline="")
    assert actual_labels(files, table, ()) == ["3", "a\u2028b\x0b\x85c"]
    names = tmp_path / "names.txt"
    names.write_text("\ufeffcat\r\n a\u2028b\x0b\x0c\x85\n\n owl", "utf-8", newline="")
    assert _read_labels(names) == ["cat", "a\u2028b\x0b\x0c\x85", "owl"]
    names.write_bytes("cat\n".encode("utf-16"))
    with pytest.raises(UsageError, match=r"names\.txt is UTF-16: save it as UTF-8"):
        _read_labels(names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n", "line 1: expected FILE,LABEL"),
        ("other.png,3\n", r"names none of the files that were given \(1\)"),
        ("x.png;3\n", r"line 1: the columns seem to be separated by ';'"),
        ("x.png\t3\n", r"line 1: the columns seem to be separated by tabs"),
        ("x.png,3\nx.png,4\n", r"line 2: x.png has the label 4, and 3 in an earlier line"),
        ('x.png,"3\n', r"line 1, is not CSV"),
    ],
)
def test_a_table_of_another_shape_is_refused(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        actual_labels([tmp_path / "x.png"], tmp_path / "labels.csv", set())


@pytest.mark.parametrize(
    ("body", "kind", "ours", "for_curl"),
    [
        (b"png", "image/png", "IMAGE", "-T IMAGE"),
        (b'{"bmi": 25.5, "bp": 90}', "application/json", "--row bmi=25.5,bp=90", "--data-raw"),
        (b"[1, 2]", "application/json", "FILE.in", "--data-raw"),
        (b"it's", "text/plain", "--text 'it'\"'\"'s'", "--data-raw"),
        (b"long " * 100, "text/plain", "--text TEXT", "-T FILE.in"),
        (b"?", "application/octet-stream", "FILE.in", "-T FILE.in"),
    ],
)
def test_serve_suggests_an_input_of_the_models_kind(body, kind, ours, for_curl):
    predict, curl = _inputs(Sample(body, kind, "sample.in", None))
    assert predict == ours
    assert for_curl in curl


def test_the_next_version_is_one_that_the_store_does_not_hold(tmp_path):
    assert free_version(tmp_path, "houses") == "1.0"
    for version in ("1.0", "2.0"):
        (tmp_path / f"houses-{version}.mar").touch()
    assert free_version(tmp_path, "houses") == "3.0"


def test_the_same_error_is_written_once(cli, tmp_path):
    with FakeServer() as server:
        project = Project(tmp_path)
        project.state.mkdir()
        ready = ReadyFile(server.url, server.url, server.url, os.getpid(), None, [])
        project.ready_file.write_text(ready.to_json())
        server.answer("mnist", {"label": "7"})
        for number in range(5):
            (tmp_path / f"{number}.png").write_bytes(b"png")
            server.refuse("mnist", 422, "not for this model")
        code, out, _ = cli("predict", "mnist", tmp_path)
    assert code == 1
    told = " ".join(out.split())
    assert told.count("not for this model") == 1
    assert told.count("(same error as") == 4
