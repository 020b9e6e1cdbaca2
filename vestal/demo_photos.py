"""The demo's photographs: a model with ImageNet weights, from a package of the Python index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from rich.table import Table

from vestal.archive.pack import pack
from vestal.cli.output import out as console
from vestal.client import Client
from vestal.errors import VestalError
from vestal.project import Project
from vestal.training.plots import PredictedImage, draw_grid
from vestal.weights.fetch import fetch, package_of

MODEL = "imagenet"
# What scikit-learn's photographs show; the dahlia is no class of ImageNet, and a daisy is near.
SHOWN = {"china.jpg": "palace", "flower.jpg": "dahlia"}


@dataclass(frozen=True)
class Photo:
    """`actual`: what it shows; None if unknown."""

    file: Path
    actual: str | None


def gather(own: Path | None) -> list[Photo]:
    """Return scikit-learn's photographs, and the user's."""
    from sklearn.datasets import load_sample_images

    photos = [Photo(Path(name), SHOWN[Path(name).name]) for name in _files(load_sample_images())]
    return photos if own is None else [*photos, Photo(own, None)]


def _files(bunch: object) -> Sequence[str]:
    names: Sequence[str] = getattr(bunch, "filenames", ())
    return names


def show_photos(client: Client, project: Project, own: Path | None) -> None:
    """Fetch, pack and register the model, and classify the photographs over HTTP.

    Without an index, it says what is left out.
    """
    package = package_of(project, MODEL)
    console.print(package.describe())
    try:
        fetch(project, MODEL, package)
    except VestalError as error:
        console.print(f"Left out: {error}", soft_wrap=True)
        return
    archive = pack(project, MODEL, version="1.0").archive
    client.register(archive.name, timeout=120)
    photos = gather(own)
    predictions = [client.predict(MODEL, photo.file, timeout=60) for photo in photos]
    table = Table("photograph", "shows", "predicted", "probability", box=None, pad_edge=False)
    for photo, prediction in zip(photos, predictions, strict=True):
        probability = f"{prediction['probability']:.0%}"
        table.add_row(photo.file.name, photo.actual or "?", prediction["label"], probability)
    console.print(table)
    images = [
        PredictedImage(Image.open(photo.file).convert("RGB"), photo.actual, prediction["label"])
        for photo, prediction in zip(photos, predictions, strict=True)
    ]
    draw_grid(images, project.root / "photos.png")
    console.print(f"Plot: {project.root.name}/photos.png")
