"""What a training leaves, and packing takes: `runs/<model>/<number>/`.

model.pt            TorchScript, eval mode
state_dict.pt       the same weights by name
index_to_name.json  the labels
transforms.py       the preprocessing that it was trained with
input.png           one image of the test set, for the archive's sample
training.json       the record: data set, seed, epochs, accuracies, versions
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vestal.errors import VestalError
from vestal.project import Project

TORCHSCRIPT = "model.pt"
STATE_DICT = "state_dict.pt"
LABELS = "index_to_name.json"
TRANSFORMS = "transforms.py"
SAMPLE = "input.png"
RECORD = "training.json"


@dataclass(frozen=True)
class Run:
    """One training's record; `folder` is where it stands."""

    folder: Path
    model: str
    task: str
    dataset: str
    seed: int
    epochs: int
    best_epoch: int
    val_accuracy: float
    test_accuracy: float
    test_size: int
    torch: str
    torchvision: str

    def write(self) -> None:
        """Written last: a folder with a record is whole."""
        record = {key: value for key, value in asdict(self).items() if key != "folder"}
        (self.folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", "utf-8")

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Reads a run's record.

        Raises:
            VestalError: the folder is no finished training; the message names what is missing.
        """
        needed = (TORCHSCRIPT, LABELS, TRANSFORMS, SAMPLE, RECORD)
        missing = [file for file in needed if not (folder / file).is_file()]
        if missing:
            raise VestalError(
                f"{folder} is not a finished training (no {', '.join(missing)}): "
                "name a folder that `vestal train` left"
            )
        try:
            return cls(folder=folder, **json.loads((folder / RECORD).read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise VestalError(
                f"{folder / RECORD} is not a record of `vestal train` ({error}): train again"
            ) from None


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
            "or name the folder of a training with --weights"
        )
    return parent / str(max(done))


def _numbers(parent: Path) -> list[int]:
    return [int(folder.name) for folder in parent.glob("*") if folder.name.isdecimal()]
