"""Labels of imported weights."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator
from pets_weights import (
    import_pets,
    save_weights,
)
from pets_weights import project as project  # a fixture
from pets_weights import state as state  # a fixture

from vestal.archive.pack import pack
from vestal.cli.pack import _read_labels
from vestal.errors import UsageError
from vestal.inprocess import Input, LoadedArchive

pytestmark = pytest.mark.heavy


def test_the_error_for_missing_labels_names_the_option(project, state, tmp_path):
    with pytest.raises(UsageError, match=r"pets has no labels: .*`vestal pack --labels FILE`"):
        import_pets(project, save_weights(tmp_path, state), tmp_path, labels=None)


def test_classes_with_the_same_label_are_distinguished_by_index(project, state, tmp_path):
    labels = ("crane", "dog", "crane")
    packed = pack(
        project, "pets", version="7", weights=save_weights(tmp_path, state), labels=labels
    )
    assert packed.warnings == [
        "1 label names several classes: crane (0, 2). Predictions carry the class index, which "
        "tells them apart."
    ]
    with LoadedArchive(packed.archive) as loaded:
        described = loaded.describe()
        (answer,) = loaded.predict([Input.raw(*example(described))])
    assert described["labels"] == list(labels)
    top = answer.json()["top"]
    assert [labels[one["index"]] for one in top] == [one["label"] for one in top]
    assert sorted(one["index"] for one in top) == [0, 1, 2]
    Draft202012Validator(described["output"]).validate(answer.json())


def example(described):
    return json.dumps(described["example"]).encode(), "application/json"


IMAGENET = {"0": ["n02012849", "crane"], "1": ["n03126707", "crane"], "2": ["n03710721", "dog"]}


def test_labels_are_read_from_torchserves_index_to_name_json(tmp_path):
    file = tmp_path / "index_to_name.json"
    file.write_text(json.dumps(IMAGENET))
    assert _read_labels(file) == ["crane", "crane", "dog"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected an object"),
        ("{", "cannot be read"),
        ('{"1": "a"}', "has 1 label but none for class '0'"),
    ],
)
def test_an_invalid_label_file_is_refused(tmp_path, text, message):
    file = tmp_path / "labels.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        _read_labels(file)
