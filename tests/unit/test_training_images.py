"""Errors in folders of images are found before or during a training, and named."""

from __future__ import annotations

import pytest

from vestal.errors import VestalError
from vestal.model_folders import find_model
from vestal.project import Project
from vestal.recipes.recipe import Splits, load_recipe, load_transform
from vestal.training.image_folders import ImageFiles
from vestal.training.loop import Learner, fit
from vestal.training.settings import Settings
from vestal.training.train import train


def test_the_message_about_a_corrupt_image_names_the_file(tmp_path):
    from PIL import Image

    for number in range(4):
        Image.new("L", (28, 28), 60 * number).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    files = ImageFiles([tmp_path / f"{n}.png" for n in range(4)], [0, 1, 0, 1], "L")
    splits = Splits(files, files, files, labels=("a", "b"))
    recipe = load_recipe(Project.here(), "mnist")
    transform = load_transform(Project.here(), "mnist", "transforms")
    learner = Learner(recipe, recipe.make(splits.labels), splits.labels, 0)
    with pytest.raises(VestalError, match=r"2\.png is not a readable image \(.*remove or replace"):
        fit(learner, splits, transform, tmp_path / "run", epochs=1, device="cpu")


FOLDER = """

from vestal.training.image_folders import image_folder

recipe = replace(
    recipe, datasets={"folder": DataSet(load=partial(image_folder, mode="L"), epochs=1)}
)
"""


@pytest.fixture
def folder_project(tmp_path):
    """A project with mnist, whose build() has ten outputs, and a data set of image folders."""
    project = Project(tmp_path)
    folder = project.models / "ten"
    folder.mkdir(parents=True)
    for file in ("recipe.py", "model.py", "transforms.py"):
        text = (find_model(project, "mnist") / file).read_text()
        imports = "from dataclasses import replace\nfrom functools import partial\n"
        (folder / file).write_text(imports + text + FOLDER if file == "recipe.py" else text)
    return project


def write_photos(folder, classes, count):
    from PIL import Image

    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            shade = 60 * number + index
            Image.new("L", (28, 28), shade).save(folder / name / f"{index}.png")


def test_the_error_for_a_folder_with_other_classes_than_build_names_both(folder_project, tmp_path):
    photos = tmp_path / "photos"
    write_photos(photos, ("cat", "dog"), 10)
    with pytest.raises(
        VestalError,
        match=r"build\(\) in .*ten/model\.py makes 10 outputs, but the data set folder has 2 "
        r"classes \(cat, dog\): define build\(classes: int\)",
    ):
        train(folder_project, "ten", Settings(data=str(photos)))
    assert not folder_project.runs.exists()


def test_errors_in_a_folder_of_images_are_found_before_training(folder_project, tmp_path):
    photos = tmp_path / "photos"
    write_photos(photos, map(str, range(10)), 10)
    (photos / "3" / "7.png").write_bytes(b"no image")
    with pytest.raises(VestalError, match=r"1 of 70 files .*3/7\.png; remove"):
        train(folder_project, "ten", Settings(data=str(photos)))
    write_photos(tmp_path / "one", ("cat",), 10)
    with pytest.raises(VestalError, match=r"folder has one class \(cat\): a classifier requires"):
        train(folder_project, "ten", Settings(data=str(tmp_path / "one")))
    write_photos(tmp_path / "test_only" / "test", ("cat", "dog"), 10)
    with pytest.raises(VestalError, match=r"folder has no train/ folder, so there is nothing to"):
        train(folder_project, "ten", Settings(data=str(tmp_path / "test_only")))
    assert not folder_project.runs.exists()
