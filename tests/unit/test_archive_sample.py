"""Samples that are packed: of media, and for handlers without example()."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from vestal.archive.examples import example_of
from vestal.archive.pack import pack
from vestal.checking.checker import check
from vestal.errors import VestalError
from vestal.mar.sample import find_difference, read_sample, value_of
from vestal.model_folders import find_model
from vestal.project import Project
from vestal.scaffold import create
from vestal_handlers.requests.schema import validate

pytestmark = pytest.mark.heavy

DOCS = Path(__file__).parents[2] / "docs" / "concepts" / "requests.md"
MODEL = """
from torch import nn


def build():
    return nn.Linear(4, 1)
"""
RECIPE = """
from vestal.recipes.objectives import Regression
from vestal.recipes.recipe import Recipe

from .model import build

recipe = Recipe(
    task="regressor",
    build=build,
    objective=Regression(),
    datasets={},
    batch_size=4,
    learning_rate=0.1,
    formats=["state_dict"],
)
"""
HANDLER = """
from {module} import {name}


class Handler({name}):
    pass
"""
PAINTER = """
from io import BytesIO

from PIL import Image

from scorer import Scorer
from vestal_handlers.requests.responses import Media


class Painter(Scorer):
    def encode(self, output, instance):
        level = int(128 + output.item() * 10)
        stream = BytesIO()
        Image.new("L", (8, 8), level).save(stream, "PNG")
        return Media(stream.getvalue(), "image/png")
"""
TALKER = """
import random

from scorer import Scorer
from vestal_handlers.requests.responses import Media


class Talker(Scorer):
    def encode(self, output, instance):
        return Media(b"\\xff" + random.randbytes(8), "audio/wav")
"""
SILENT = """
from scorer import Scorer


class Silent(Scorer):
    def input_schema(self):
        return {}
"""
STRANGE = """
from ts.torch_handler.base_handler import BaseHandler


class Strange(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        return [{"ok": True}] * len(data)
"""


def scorer_of_the_docs():
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "class Scorer" in block]
    return block


@pytest.fixture
def packed(tmp_path):
    """Pack a linear model with its own handler: `packed(source, class name)`."""

    def make(source, name):
        project = Project(tmp_path)
        create(project, "scores", "regressor")
        home = find_model(project, "scores")
        module = name.lower()
        (home / "model.py").write_text(MODEL)
        (home / "recipe.py").write_text(RECIPE)
        (home / "transforms.py").unlink()
        (home / "model-config.yaml").write_text("batchSize: 4\nmaxBatchDelay: 5\n")
        (home / "scorer.py").write_text(scorer_of_the_docs())
        (home / f"{module}.py").write_text(source)
        (home / "handler.py").write_text(HANDLER.format(module=module, name=name))
        torch.manual_seed(0)
        torch.save(torch.nn.Linear(4, 1).state_dict(), tmp_path / "w.pth")
        return pack(project, "scores", version="1.0", weights=tmp_path / "w.pth")

    return make


def test_the_handler_of_the_docs_is_packed_with_an_input_that_its_schema_allows(packed):
    made = packed(scorer_of_the_docs(), "Scorer")
    sample = read_sample(made.archive)
    assert sample.input == b"[0.0, 0.0, 0.0, 0.0]"
    assert sample.answer.keys() == {"score"}
    assert made.no_sample is None
    assert not check(made.archive, run=True).failed


@pytest.mark.slow
def test_a_handler_that_returns_pictures_has_a_picture_as_its_sample(packed):
    made = packed(PAINTER, "Painter")
    sample = read_sample(made.archive)
    assert sample.answer["content_type"] == "image/png"
    assert not check(made.archive, run=True).failed


without_sample = pytest.mark.parametrize(
    ("source", "name", "reason"),
    [
        (TALKER, "Talker", "predicts differently for the same input"),
        (SILENT, "Silent", r"no input follows from its input_schema\(\)"),
        (STRANGE, "Strange", r"defines no example\(\)"),
    ],
)


@without_sample
def test_without_a_repeatable_prediction_there_is_no_sample(packed, source, name, reason):
    made = packed(source, name)
    assert re.search(reason, made.no_sample)
    assert read_sample(made.archive) is None


@pytest.mark.slow
@without_sample
def test_an_archive_without_a_sample_passes_a_trial_run(packed, source, name, reason):
    assert not check(packed(source, name).archive, run=True).failed


def test_an_example_that_is_refused_is_an_error(packed):
    source = scorer_of_the_docs() + "\n    def example(self):\n        return [1, 2]\n"
    with pytest.raises(VestalError, match=r"refuses its own sample: .*422"):
        packed(source, "Scorer")


PNG, JPEG = {"content_type": "image/png"}, {"content_type": "image/jpeg"}


def picture(level, size=(8, 8)):
    from io import BytesIO

    from PIL import Image

    stream = BytesIO()
    Image.new("L", size, level).save(stream, "PNG")
    return value_of(stream.getvalue(), "image/png")


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (picture(100), None),
        (picture(101), None),
        (picture(110), "is a different image/png"),
        (picture(100, (8, 9)), "is a different image/png"),
        (value_of(b"\xffno picture", "image/png"), "is a different image/png"),
        (value_of(b"\xff", "audio/wav"), "is audio/wav, expected image/png"),
        ({"label": "a"}, "has no 'b64'"),
    ],
)
def test_pictures_are_compared_by_their_pixels(other, difference):
    found = find_difference(picture(100), other)
    assert (found is None) == (difference is None)
    assert difference is None or difference in found


def test_other_media_are_compared_byte_by_byte():
    assert find_difference(value_of(b"\xff1", "audio/wav"), value_of(b"\xff1", "audio/wav")) is None
    assert find_difference(value_of(b"\xff1", "audio/wav"), value_of(b"\xff2", "audio/wav"))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "minItems": 2},
        {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
        {"anyOf": [{"type": "null"}, {"enum": ["red", "green"]}]},
        {"type": "integer", "minimum": 3, "maximum": 9},
        {"type": "number", "minimum": -1, "maximum": -0.5},
        {"type": "string", "minLength": 9},
        {"type": ["null", "boolean"]},
    ],
)
def test_an_example_fits_its_schema(schema):
    validate(example_of(schema), schema, "the example")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        True,
        {"type": "null"},
        {"type": "array"},
        {"type": "object", "properties": {"a": {}}},
        {"anyOf": [{}]},
    ],
)
def test_a_schema_that_is_too_general_gives_no_example(schema):
    assert example_of(schema) is None
