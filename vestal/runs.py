"""A run: the folder of a training, `runs/<model>/<number>/`, and its record.

    model.*             the weights in each format of the recipe
    index_to_name.json  the labels of a classifier
    transforms.py       the preprocessing
    model.py, ...       the other code of the model that an archive needs
    sample/             one input of the test split, for the sample of an archive
    history.json        loss, learning rate and metrics by epoch; curve.png plots them
    training.json       the record: data set, seed, epochs, metrics, versions

During a training there are `settings.json` and `checkpoints/`; training.json is written last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vestal.errors import VestalError
from vestal.files.locks import FileLock
from vestal.files.storage import write_text
from vestal.model_folders import TRANSFORMS as TRANSFORMS
from vestal.project import Project

LABELS = "index_to_name.json"
RECORD = "training.json"
SETTINGS = "settings.json"
SAMPLE = "sample"
CURVE = "curve.png"
ARTIFACTS = (".pt", ".pth", ".pt2", ".onnx", ".xml", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The record of a training, or of imported weights.

    Attributes:
        dataset: name of the data set; for imported weights, their source.
        artifacts: files with weights; the first is the one to serve.
        support: other files that an archive needs, in its root.
        figure: name of the main metric; the record keeps this older name.
        validation, test: metrics by name; empty for imported weights.
        input_shape: shape of one prepared input.
        versions: versions of the packages that wrote the artifacts.
        compression: the models before and after distillation or pruning.
        background: color behind transparent images; None: not trained on image files.
    """

    folder: Path
    model: str
    task: str
    dataset: str
    artifacts: list[str]
    support: list[str]
    figure: str = ""
    seed: int | None = None
    epochs: int = 0
    best_epoch: int = 0
    validation: Mapping[str, float] = field(default_factory=dict)
    test: Mapping[str, float] = field(default_factory=dict)
    test_size: int = 0
    input_shape: list[int] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=dict)
    compression: Mapping[str, Any] = field(default_factory=dict)
    background: str | None = None

    def write(self) -> None:
        """Write the record; a folder with a record is complete."""
        record = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_text(self.folder / RECORD, json.dumps(record, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read the record of a run.

        Raises:
            VestalError: not a finished training; the message names the missing file.
        """
        if not (folder / RECORD).is_file():
            raise VestalError(
                f"{folder} is not a finished training (no {RECORD}): "
                "pass a folder that `vestal train` wrote"
            )
        try:
            run = cls(folder=folder, **json.loads((folder / RECORD).read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise VestalError(
                f"{folder / RECORD} is not a record of `vestal train` ({error}): train again"
            ) from None
        run._check(folder / RECORD)
        missing = [file for file in (*run.artifacts, *run.support) if not (folder / file).is_file()]
        if missing:
            raise VestalError(f"{folder} is incomplete (no {', '.join(missing)}): train again")
        return run

    def _check(self, record: Path) -> None:
        """Raise VestalError for a record that `vestal train` does not write."""
        texts: tuple[Any, ...] = (self.model, self.task, self.dataset)
        lists: tuple[Any, ...] = (self.artifacts, self.support)
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(files, list) and all(isinstance(file, str) for file in files)
            for files in lists
        ):
            raise VestalError(f"{record} is not a record of `vestal train`: train again")
        suffixes = {Path(file).suffix for file in self.artifacts}
        if not suffixes or suffixes - set(ARTIFACTS):
            raise VestalError(
                f"{record} names the artifacts {', '.join(self.artifacts) or 'nothing'}; "
                f"expected {', '.join(f'*{suffix}' for suffix in ARTIFACTS)}"
            )
        for file in (*self.artifacts, *self.support):
            if not stays_inside(self.folder, file):
                raise VestalError(
                    f"{record} names {file}, which is outside of {self.folder}: copy it into the "
                    "folder"
                )

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes, in order; None if the model is not a classifier.

        Raises:
            VestalError: an invalid file.
        """
        # Imported late: a process with an archive must import the archive's own copy first.
        from vestal_handlers.labels import labels_in

        file = self.folder / LABELS
        if not file.is_file():
            return None
        try:
            return labels_in(json.loads(file.read_text("utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise VestalError(
                f'{file} cannot be read ({error!r}): expected {{"0": "first label", ...}}'
            ) from None

    def metrics_text(self) -> str:
        """The test metrics as text: `accuracy 98.61%`, `r2 0.432, mae 44.1`."""
        return ", ".join(f"{name} {format_metric(name, v)}" for name, v in self.test.items())


def stays_inside(folder: Path, name: str) -> bool:
    """Whether a file is inside of a folder, after links are followed."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return False
    return (folder / path).resolve().is_relative_to(folder.resolve())


def format_metric(name: str, value: float) -> str:
    """A metric as text: accuracy as `98.61%`, others with four digits."""
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4g}"


def new_run_folder(project: Project, model: str) -> Path:
    """Create the folder with the next number under `runs/<model>/`."""
    parent = project.runs / model
    parent.mkdir(parents=True, exist_ok=True)
    number = max(_numbers(parent), default=0) + 1
    while True:
        try:
            (parent / str(number)).mkdir()
        except FileExistsError:  # by another training at the same time
            number += 1
        else:
            return parent / str(number)


def latest_run(project: Project, model: str) -> Path:
    """The newest finished run of a model.

    Raises:
        VestalError: the model was never trained in this project.
    """
    parent = project.runs / model
    finished = [n for n in _numbers(parent) if (parent / str(n) / RECORD).is_file()]
    if not finished:
        raise VestalError(
            f"no weights of {model} in {parent}: train it (vestal train {model}) "
            "or pass its weights with --weights"
        )
    return parent / str(max(finished))


def has_run(project: Project, model: str) -> bool:
    """Whether there is a finished training of a model, or fetched weights."""
    parent = project.runs / model
    return any((parent / str(number) / RECORD).is_file() for number in _numbers(parent))


def find_run(project: Project, name: str) -> Run:
    """A run by its folder, or the newest run of a model by the name of the model.

    A folder with the name of a model is ignored unless it is a run.

    Raises:
        VestalError: no such run, or an unfinished one.
    """
    folder = Path(name)
    if (folder / RECORD).is_file() or len(folder.parts) > 1:
        return Run.read(folder)
    return Run.read(latest_run(project, name))


def unfinished_run(project: Project, model: str) -> Path:
    """The newest interrupted training of a model, for `--resume`.

    Raises:
        VestalError: there is none.
    """
    parent = project.runs / model
    unfinished = [
        number
        for number in _numbers(parent)
        if (parent / str(number) / SETTINGS).is_file()
        and not (parent / str(number) / RECORD).is_file()
    ]
    if not unfinished:
        raise VestalError(f"no interrupted training of {model} in {parent} to resume")
    return parent / str(max(unfinished))


def _numbers(parent: Path) -> list[int]:
    return [int(folder.name) for folder in parent.glob("*") if folder.name.isdecimal()]


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the lock of a training's folder; it ends with the process, however that ends.

    Raises:
        VestalError: another training holds it.
    """
    lock = FileLock(folder)
    try:
        if not lock.acquire():
            raise VestalError(f"another vestal train uses {folder}: wait for it, or stop it")
        yield
    finally:
        lock.release()
