"""The command line: messages, exit codes, no tracebacks."""

from __future__ import annotations

import json
import os
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from vestal.cli.inputs import expand
from vestal.cli.labels import actual_labels
from vestal.cli.pack import _read_labels
from vestal.cli.ready_output import inputs_for
from vestal.cli.train import free_version
from vestal.errors import UsageError
from vestal.mar.layout import MANIFEST
from vestal.mar.sample import Sample
from vestal.model_folders import zoo
from vestal.project import Project, ReadyFile
from vestal.testing import FakeServer


def test_help_lists_every_command(cli):
    code, out, _ = cli("--help")
    assert code == 0
    assert all(name in out for name in ("train", "pack", "serve", "predict", "load"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("train", "mnits", "--dataset", "digits"), 2, "did you mean mnist?"),
        (("train", "mnist", "--dataset", "cifar"), 2, "this recipe has digits, mnist"),
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
def test_usage_errors_are_sentences(cli, arguments, code, message):
    got, _, err = cli(*arguments)
    assert got == code, err
    assert message in " ".join(err.split())


def test_predict_without_a_server_says_how_to_start_one(cli, tmp_path):
    (tmp_path / "seven.png").write_bytes(b"")
    code, _, err = cli("predict", "mnist", "seven.png")
    assert code == 1
    assert "no server runs here" in err
    assert "vestal serve" in err


def test_a_load_test_of_a_model_that_is_not_served_sends_nothing(cli, tmp_path):
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


@pytest.fixture
def fake_server(tmp_path):
    """A server of this project with mnist 1.0 (the default) and 2.0."""
    with FakeServer() as server:
        project = Project(tmp_path)
        project.state.mkdir()
        ready = ReadyFile(server.url, server.url, server.url, os.getpid(), None, [])
        project.ready_file.write_text(ready.to_json())
        server.answer("mnist", {"label": "7"})
        server.answer("mnist", {"label": "8"}, version="2.0")
        yield server


@pytest.mark.parametrize(
    ("arguments", "version"),
    [
        (("mnist",), "1.0"),
        (("mnist", "--version", "2.0"), "2.0"),
        (("mnist-2.0",), "2.0"),
        (("mnist-2.0", "--version", "2.0"), "2.0"),
        (("stored/mnist-2.0.mar",), "2.0"),
    ],
)
def test_predict_accepts_every_name_of_a_served_model(
    cli, fake_server, tmp_path, arguments, version
):
    manifest = {"model": {"modelName": "mnist", "modelVersion": "2.0"}}
    (tmp_path / "stored").mkdir()
    with zipfile.ZipFile(tmp_path / "stored" / "mnist-2.0.mar", "w") as archive:
        archive.writestr(MANIFEST, json.dumps(manifest))
    code, out, err = cli("predict", *arguments, "--text", "x", "--json")
    assert (code, json.loads(out)[0]["version"]) == (0, version), err


def test_a_model_whose_name_ends_like_a_version_is_found(cli, fake_server):
    fake_server.answer("mnist-2.0", {"label": "9"})
    _, out, _ = cli("predict", "mnist-2.0", "--text", "x", "--json")
    assert json.loads(out)[0]["answer"] == {"label": "9"}


def test_a_model_that_is_not_served_is_reported_once_with_those_that_are(cli, fake_server):
    code, _, err = cli("predict", "mnits", "--text", "x", "--text", "y")
    assert (code, err.count("model mnits is not served; did you mean mnist?")) == (1, 1), err
    code, _, err = cli("predict", "mnist", "--version", "9", "--text", "x")
    assert (code, "model mnist 9 is not served; served: mnist" in err) == (1, True), err


def test_two_versions_of_a_served_model_are_refused(cli, fake_server):
    code, _, err = cli("predict", "mnist-2.0", "--version", "1.0", "--text", "x")
    assert (code, "has version 2.0, but --version is 1.0; omit one of them" in err) == (2, True)


@pytest.mark.heavy
@pytest.mark.parametrize("by_url", [False, True])
def test_a_load_test_uses_the_requested_version(cli, fake_server, tmp_path, by_url):
    (tmp_path / "seven.png").write_bytes(b"png")
    named = ("mnist", "--version", "2.0", "--url", fake_server.url) if by_url else ("mnist-2.0",)
    code, out, err = cli("load", *named, "seven.png", "--users", 1, "--seconds", 1, "--json")
    assert (code, json.loads(out)["failures"]) == (0, {}), err
    assert {(sent.model, sent.version) for sent in fake_server.requests} == {("mnist", "2.0")}


def test_check_accepts_the_name_of_an_archive(cli, tmp_path):
    (tmp_path / "model_store").mkdir()
    (tmp_path / "model_store" / "m-1.0.mar").write_bytes(b"PK")
    code, out, _ = cli("check", "m-1.0", "--json")
    assert (code, json.loads(out)[0]["archive"]) == (1, str(tmp_path / "model_store" / "m-1.0.mar"))
    code, _, err = cli("check", "other-1.0")
    assert (code, "no archive other-1.0" in err) == (2, True)


def test_train_accepts_the_folder_of_a_model(cli):
    code, _, err = cli("train", f"{zoo()}/mnist/", "--dataset", "cifar")
    assert (code, "this recipe has digits, mnist" in err) == (2, True)


@pytest.mark.heavy
def test_train_and_pack_print_json(cli, tmp_path):
    code, out, _ = cli("train", "regression", "--epochs", 1, "--json")
    run = json.loads(out)
    assert (code, run["folder"]) == (0, str(tmp_path / "runs" / "regression" / "1"))
    code, out, _ = cli("pack", "regression", "--version", "1.0", "--json")
    assert code == 0
    assert json.loads(out)["archive"] == str(tmp_path / "model_store" / "regression-1.0.mar")


def test_a_missing_extra_is_named(cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning", None)  # as if it were not installed
    for name in [n for n in sys.modules if n.startswith("vestal.training")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = cli("train", "mnist", "--dataset", "digits")
    assert code == 2
    assert "this command requires lightning; install it with pip install 'vestal[train]'" in err


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_for_saving_is_reported_before_training(cli, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = cli("train", "fashion_mlp", "--dataset", "digits")
    assert code == 2
    assert f"this command requires {package}; install it with pip install 'vestal[optimize]'" in err
    assert not Path("runs").exists()


def test_the_train_extra_installs_the_packages_for_saving():
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    train = " ".join(extras["optional-dependencies"]["train"])
    assert all(f"{package}>=" in train for package in ("onnx", "onnxscript"))


def test_a_folder_expands_to_its_files_in_order(tmp_path):
    for name in ("b/2.png", "a/1.png", "a/.hidden", ".git/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [file.name for file in expand([tmp_path])] == ["1.png", "2.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no files in"):
        expand([tmp_path / "empty"])


def test_the_name_of_a_folder_is_the_true_label_if_the_model_has_it(tmp_path):
    files = [tmp_path / "7" / "x.png", tmp_path / "photos" / "y.png"]
    assert actual_labels(files, None, {"7", "8"}) == ["7", None]


def test_a_table_of_labels_takes_precedence_over_folders(tmp_path):
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
        (
            "other.png,3\n",
            r"has a label for none of the inputs: expected lines FILE,LABEL, such as x",
        ),
        ("x.png;3\n", r"line 1: the columns seem to be separated by ';'"),
        ("x.png\t3\n", r"line 1: the columns seem to be separated by tabs"),
        ("x.png,3\nx.png,4\n", r"line 2: x.png has the label 4, but 3 in an earlier line"),
        ('x.png,"3\n', r"line 1: invalid CSV"),
    ],
)
def test_an_invalid_table_of_labels_is_refused(tmp_path, text, message):
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
def test_serve_suggests_an_input_that_fits_the_model(body, kind, ours, for_curl):
    predict, curl = inputs_for(Sample(body, kind, "sample.in", None))
    assert predict == ours
    assert for_curl in curl


def test_the_suggested_version_is_not_in_the_store(tmp_path):
    assert free_version(tmp_path, "houses") == "1.0"
    for version in ("1.0", "2.0"):
        (tmp_path / f"houses-{version}.mar").touch()
    assert free_version(tmp_path, "houses") == "3.0"


def test_equal_errors_are_printed_once(cli, tmp_path):
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
    text = " ".join(out.split())
    assert text.count("not for this model") == 1
    assert text.count("(same error as") == 4
