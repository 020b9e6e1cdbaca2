"""`handler.background` of model-config.yaml: training and serving see the same pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vestal.archive.pack import pack
from vestal.errors import UsageError
from vestal.evaluation.predictions import request_body
from vestal.inprocess import Input, LoadedArchive
from vestal.project import Project
from vestal.recipes.recipe import load_recipe
from vestal.runs import find_run
from vestal.scaffold import create
from vestal.training.settings import Settings
from vestal.training.train import train
from vestal_handlers.requests.request import InferenceRequest, Instance

pytestmark = pytest.mark.heavy

INK = np.zeros((16, 16), dtype=np.uint8)
INK[4:12, 4:12] = 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes that differ only where the background shows: a square, and its surroundings."""
    made = tmp_path_factory.mktemp("pictures")
    for label, alpha in (("around", 255 - INK), ("square", INK)):
        (made / label).mkdir()
        for number in range(20):
            grey = np.full_like(INK, number)  # nobody sees these under alpha 0
            Image.fromarray(np.dstack([grey] * 3 + [alpha])).save(made / label / f"{number}.png")
    return made


def configure(project, background):
    file = project.models / "ink" / "model-config.yaml"
    text = file.read_text().split("  background:")[0]
    file.write_text(f"{text}  background: {background}\n" if background else text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, folder):
    project = Project(tmp_path_factory.mktemp("project"))
    create(project, "ink", "image_classifier")
    configure(project, '"#ff0000"')
    train(project, "ink", Settings(dataset="folder", data=str(folder), epochs=1, device="cpu"))
    configure(project, '"#ff0000"')
    pack(project, "ink", version="1.0")
    return project


def test_training_and_serving_see_the_same_pixels(trained, folder):
    test = load_recipe(trained, "ink").splits("folder", folder).test
    assert len(test) == 8
    assert (test[0][0][0] == 255).any()  # red
    with LoadedArchive(trained.model_store / "ink-1.0.mar") as loaded:
        handler = loaded._service._entry_point.__self__
        for index in range(len(test)):
            body = request_body(load_recipe(trained, "ink"), test, index)
            (answer,) = loaded.predict([Input.raw(body.content, body.content_type)])
            assert answer.status == 200
            served = handler._image(Instance(InferenceRequest(0, "", {}), body.content))
            assert torch.equal(served, test[index][0])


def test_the_run_knows_its_background(trained):
    assert find_run(trained, "ink").background == "#ff0000"


@pytest.mark.parametrize("other", [None, "black"])
def test_packing_over_another_background_is_refused(trained, other):
    configure(trained, other)
    with pytest.raises(
        UsageError, match=r"trained with a #ff0000 background .*, but handler\.background .*"
    ):
        pack(trained, "ink", version="1.1")
    configure(trained, '"#ff0000"')


@pytest.mark.parametrize("wrong", ["purplish", '"#ff000080"', "7"])
def test_what_is_no_colour_is_refused_before_training(trained, folder, wrong):
    configure(trained, wrong)
    with pytest.raises(UsageError, match="is not an opaque colour"):
        load_recipe(trained, "ink")
    configure(trained, '"#ff0000"')
