"""What a training leaves, and packing takes: `runs/<model>/<number>/`.

    model.*             the artifact in each format that the recipe saves
    index_to_name.json  the labels, of a classifier
    transforms.py       the preprocessing that it was trained with
    model.py, ...       its architecture, and what else of the model's folder travels with it
    sample/             one input of the test split, for the archive's sample
    history.json        loss, rate and figures by epoch; curve.png draws them
    training.json       the record: data set, seed, epochs, figures, versions

While a training runs there are `settings.json` and `checkpoints/`, and no training.json yet.
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
from vestal.project import Project

LABELS = "index_to_name.json"
TRANSFORMS = "transforms.py"
RECORD = "training.json"
SETTINGS = "settings.json"
SAMPLE = "sample"
CURVE = "curve.png"
ARTIFACTS = (".pt", ".pth", ".pt2", ".onnx", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training's record; `folder` is where it stands.

    Attributes:
        dataset: what it was trained on; of weights from elsewhere, where they come from.
        artifacts: the files that hold weights; the first is the one to serve.
        support: the other files that travel in an archive, in its root.
        figure: the name of the one that stands for the others.
        validation, test: the figures by name; empty for weights from elsewhere.
        input_shape: of one prepared input, the model's.
        versions: of the packages that made the artifacts.
        compression: what distillation or pruning did, before and after.
        background: what transparent images were shown on; None: it was not trained on image files.
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
        """Written last: a folder with a record is whole."""
        record = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_text(self.folder / RECORD, json.dumps(record, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Reads a run's record.

        Raises:
            VestalError: the folder is no finished training; the message names what is missing.
        """
        if not (folder / RECORD).is_file():
            raise VestalError(
                f"{folder} is not a finished training (no {RECORD}): "
                "name a folder that `vestal train` left"
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
            raise VestalError(f"{folder} is not whole (no {', '.join(missing)}): train again")
        return run

    def _check(self, record: Path) -> None:
        """Raises VestalError for a record that `vestal train` does not write."""
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
                    f"{record} names {file}, which is outside of {self.folder}: every file of a "
                    "training is in its folder; copy it there"
                )

    @property
    def labels(self) -> list[str] | None:
        """The names of the classes, in order; None where there are none.

        Raises:
            VestalError: the file is not what `vestal train` writes.
        """
        # Not above: a process that holds an archive must import the archive's own copy first.
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

    def figures(self) -> str:
        """The test figures for people: `accuracy 98.61%`, `r2 0.432, mae 44.1`."""
        return ", ".join(f"{name} {shown(name, value)}" for name, value in self.test.items())


def stays_inside(folder: Path, name: str) -> bool:
    """Whether a file of that name is inside of a folder, after links are followed."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return False
    return (folder / path).resolve().is_relative_to(folder.resolve())


def shown(name: str, value: float) -> str:
    """A figure for people: `98.61%` of an accuracy, four digits of every other."""
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4g}"


def new_run_folder(project: Project, model: str) -> Path:
    """Makes the next number's folder under `runs/<model>/`."""
    parent = project.runs / model
    parent.mkdir(parents=True, exist_ok=True)
    number = max(_numbers(parent), default=0) + 1
    while True:
        try:
            (parent / str(number)).mkdir()
        except FileExistsError:  # a training beside this one took it
            number += 1
        else:
            return parent / str(number)


def latest_run(project: Project, model: str) -> Path:
    """The newest finished run of a model.

    Raises:
        VestalError: it was never trained here.
    """
    parent = project.runs / model
    done = [number for number in _numbers(parent) if (parent / str(number) / RECORD).is_file()]
    if not done:
        raise VestalError(
            f"no weights of {model} in {parent}: train it (vestal train {model}) "
            "or say where they are (--weights)"
        )
    return parent / str(max(done))


def find_run(project: Project, named: str) -> Run:
    """A run by its folder, or the newest run of a model by its name.

    A folder of the model's name is only meant where it is a run.

    Raises:
        VestalError: there is none, or it is not finished.
    """
    folder = Path(named)
    if (folder / RECORD).is_file() or len(folder.parts) > 1:
        return Run.read(folder)
    return Run.read(latest_run(project, named))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One training at a time in a folder; raises VestalError where another one is at it.

    The lock is on the folder itself, and ends with the process, however it ends.
    """
    lock = FileLock(folder)
    try:
        if not lock.acquire():
            raise VestalError(f"another vestal train is at {folder}: wait for it, or stop it")
        yield
    finally:
        lock.release()


def unfinished_run(project: Project, model: str) -> Path:
    """The newest run that was stopped before its end, for `--resume`.

    Raises:
        VestalError: there is none.
    """
    parent = project.runs / model
    open_ = [
        number
        for number in _numbers(parent)
        if (parent / str(number) / SETTINGS).is_file()
        and not (parent / str(number) / RECORD).is_file()
    ]
    if not open_:
        raise VestalError(
            f"no training of {model} in {parent} was stopped: there is none to resume"
        )
    return parent / str(max(open_))


def _numbers(parent: Path) -> list[int]:
    return [int(folder.name) for folder in parent.glob("*") if folder.name.isdecimal()]
