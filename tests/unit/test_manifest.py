"""The manifest of an archive, as every command reads it."""

from __future__ import annotations

import pytest
from check_archives import HANDLE, codes_in, simple, stock

from vestal.checking import check
from vestal.errors import UsageError
from vestal.inprocess import LoadedArchive
from vestal.mar.manifest import Manifest, parse_manifest, read_manifest
from vestal.server.spec import read_spec


def test_the_manifest_may_name_a_file_with_a_leading_dot_slash(tmp_path):
    draft = stock()
    draft.manifest["model"]["serializedFile"] = "./net.pth"
    assert codes_in(draft.write(tmp_path / "model.mar")) == []


@pytest.mark.parametrize(("given", "version"), [(1.5, "1.5"), (2, "2"), (True, "true")])
def test_a_version_may_be_a_number_or_a_boolean(tmp_path, given, version):
    draft = simple(HANDLE)
    draft.manifest["model"]["modelVersion"] = given
    archive = draft.write(tmp_path / "a.mar")
    assert not check(archive).failed
    assert read_manifest(archive).version == read_spec(archive).version == version


@pytest.mark.parametrize("key", ["handler", "serializedFile"])
def test_a_file_name_must_be_a_string(tmp_path, key):
    draft = simple(HANDLE)
    draft.manifest["model"][key] = 5
    (finding,) = [
        f for f in check(draft.write(tmp_path / "a.mar")).findings if f.severity == "error"
    ]
    assert finding.code == "bad-manifest"


def test_the_literal_of_a_number_is_kept():
    assert parse_manifest('{"model": {"modelVersion": 1.10}}').version == "1.10"


@pytest.mark.parametrize("key", ["configFile", "serializedFile"])
def test_a_manifest_must_not_name_a_file_outside_its_archive(tmp_path, key):
    draft = simple(HANDLE)
    draft.manifest["model"][key] = "../../secret.yaml"
    with pytest.raises(UsageError, match=rf"model\.{key} is .*outside of the archive"):
        LoadedArchive(draft.write(tmp_path / "a.mar"))


def test_a_written_manifest_is_read_back(tmp_path):
    manifest = Manifest("m", "1.10", "handler.py", serialized_file="m.pt", config_file="c.yaml")
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    ("handler", "file", "function"),
    [
        ("handler.py", "handler.py", "handle"),
        ("image_classifier", "image_classifier.py", "handle"),
        ("code/my_handler.py:entry", "code/my_handler.py", "entry"),
        ("code/my_handler.py", "my_handler.py", "handle"),
    ],
)
def test_a_worker_imports_the_handler_from_its_folder_only_with_a_function(handler, file, function):
    manifest = Manifest("m", "1.0", handler)
    assert (manifest.handler_file, manifest.handler_function) == (file, function)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it has no object named model"),
        ('{"model": {"handler": 5}}', "model.handler is '5', expected a string"),
    ],
)
def test_an_invalid_manifest_is_a_value_error(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_manifest(text)


@pytest.mark.parametrize("key", ["modelName", "handler"])
def test_a_manifest_without_a_required_key_names_the_archive_and_the_key(tmp_path, key):
    draft = simple(HANDLE)
    del draft.manifest["model"][key]
    archive = draft.write(tmp_path / "a.mar")
    message = rf"a\.mar is not a model archive \(model\.{key} is missing"
    with pytest.raises(UsageError, match=message):
        LoadedArchive(archive)
