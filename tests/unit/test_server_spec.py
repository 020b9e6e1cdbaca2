"""Find the archives to serve."""

from __future__ import annotations

import json
import re
import zipfile

import pytest

from vestal.errors import UsageError, VestalError
from vestal.server.spec import find_models


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def archive(store, file, name="mnist", version="1.0"):
    with zipfile.ZipFile(store / file, "w") as content:
        manifest = {"model": {"modelName": name, "modelVersion": version}}
        content.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    return store / file


def test_an_archive_is_requested_by_file_or_path_and_with_a_name(store):
    archive(store, "one.mar")
    archive(store, "two.mar", version="2.0")
    found, _ = find_models(["digits=one.mar", str(store / "two.mar")], store)
    assert [str(spec) for spec in found] == ["digits 1.0", "mnist 2.0"]


def test_an_archive_is_requested_as_in_other_commands(store):
    archive(store, "mnist-1.0.mar")
    assert [str(spec) for spec in find_models(["mnist"], store)[0]] == ["mnist 1.0"]
    archive(store, "mnist-2.0.mar", version="2.0")
    found, _ = find_models(["mnist-2.0", "digits=mnist-1.0"], store)
    assert [str(spec) for spec in found] == ["mnist 2.0", "digits 1.0"]
    with pytest.raises(UsageError, match=r"several versions of mnist: name one of mnist-1\.0, mn"):
        find_models(["mnist"], store)


def test_the_default_is_the_newest_version_of_each_model(store):
    for version in ("1.9", "1.10", "1.10rc1", "nightly"):
        archive(store, f"mnist-{version}.mar", version=version)
    archive(store, "a.mar", name="alexnet", version="nightly")
    found, _ = find_models([], store)
    assert sorted(map(str, found)) == ["alexnet nightly", "mnist 1.10"]


@pytest.mark.parametrize(
    ("requested", "message"),
    [
        (["three.mar"], "no archive three.mar"),
        (["three.mar"], "store holds one.mar"),
        (["=one.mar"], "--models '=one.mar': expected NAME=ARCHIVE"),
        (["mnist="], "--models 'mnist=': expected NAME=ARCHIVE"),
        (["/elsewhere/one.mar"], "/elsewhere/one.mar is not in the model store"),
        (["m/n=one.mar"], "the model name is 'm/n'"),
        (["one.mar", "mnist=one.mar"], "mnist 1.0 is requested twice (one.mar and one.mar)"),
    ],
)
def test_an_invalid_request_is_an_error(store, requested, message):
    archive(store, "one.mar")
    with pytest.raises(UsageError, match=re.escape(message)):
        find_models(requested, store)


def test_a_version_that_cannot_be_in_a_url_is_an_error(store):
    archive(store, "one.mar", version="1.0 beta")
    with pytest.raises(UsageError, match=r"the model version is '1\.0 beta'"):
        find_models([], store)


def test_a_store_without_archives_is_an_error(store):
    (store / "README.md").write_text("Archives come here.")
    with pytest.raises(VestalError, match=r"has no archive\. Pack one first \(`vestal pack"):
        find_models([], store)


def test_a_missing_store_is_an_error(tmp_path):
    with pytest.raises(VestalError, match="there is no model store"):
        find_models([], tmp_path / "gone")


@pytest.mark.parametrize("content", [b"", b"not a zip"])
def test_a_file_that_is_not_an_archive_is_an_error(store, content):
    (store / "one.mar").write_bytes(content)
    with pytest.raises(VestalError, match=r"one\.mar is not a model archive"):
        find_models([], store)


def test_a_zip_without_a_manifest_is_an_error(store):
    with zipfile.ZipFile(store / "one.mar", "w") as content:
        content.writestr("model.pt", "")
    with pytest.raises(VestalError, match=re.escape("it has no MAR-INF/MANIFEST.json")):
        find_models(["one.mar"], store)


def test_archives_that_cannot_be_read_are_collected(store):
    archive(store, "one.mar")
    (store / "half.mar").write_bytes(b"PK")
    archive(store, "beta.mar", name="other", version="1.0 beta")
    archive(store, "a.mar", name="twin")
    archive(store, "b.mar", name="twin")
    found, failed = find_models([], store)
    assert [str(spec) for spec in found] == ["mnist 1.0"]
    assert [each.archive for each in failed] == ["b.mar", "beta.mar", "half.mar"]
    found, failed = find_models(["half.mar", "one.mar"], store)
    assert [str(spec) for spec in found] == ["mnist 1.0"]
    assert [each.archive for each in failed] == ["half.mar"]
    with pytest.raises(UsageError, match=r"no archive gone\.mar"):
        find_models(["gone.mar", "one.mar"], store)


def test_the_error_names_every_archive_if_all_are_bad(store):
    for name in ("a", "b"):
        (store / f"{name}.mar").write_bytes(b"PK")
    with pytest.raises(VestalError, match=r"no archive can be served:\n.*a\.mar.*\n.*b\.mar"):
        find_models([], store)


def test_a_damaged_manifest_gives_no_traceback(store):
    content = bytearray(archive(store, "one.mar").read_bytes())
    content[8:10] = b"\x08\x00"  # claims to be deflated
    start = content.index(b"PK\x01\x02") + 10
    content[start : start + 2] = b"\x08\x00"
    (store / "one.mar").write_bytes(content)
    with pytest.raises(VestalError, match=r"one\.mar is not a model archive"):
        find_models([], store)


def test_one_version_in_two_archives_is_an_error(store):
    archive(store, "one.mar")
    archive(store, "copy.mar")
    with pytest.raises(VestalError, match=r"copy\.mar and one\.mar in .* are both mnist 1\.0"):
        find_models([], store)


def test_an_archive_in_the_current_folder_must_be_copied_into_the_store(
    store, monkeypatch, tmp_path
):
    archive(store, "one.mar")
    archive(tmp_path, "old.mar")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"old\.mar is not in the model store .* Copy it there"):
        find_models(["old=old.mar"], store)
