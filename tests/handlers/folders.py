"""Unpacked archives of small seeded models, and requests to them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from vestal.inprocess import Input, LoadedArchive, Response
from vestal.mar.layout import MANIFEST


def write_archive(
    folder: Path,
    task: str,
    model: nn.Module,
    *,
    options: dict[str, Any] | None = None,
    labels: list[str] | None = None,
    transforms: str | None = None,
) -> Path:
    """Write the files of an archive as `vestal pack` does, with the model as TorchScript."""
    kind = "".join(part.capitalize() for part in task.split("_"))
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit")
        torch.jit.script(model.eval()).save(str(folder / "model.pt"))
    (folder / "handler.py").write_text(
        f"from vestal_handlers.tasks.{task} import {kind}\n\n\nclass Handler({kind}):\n    pass\n"
    )
    manifest = {
        "modelName": task,
        "modelVersion": "1.0",
        "handler": "handler.py",
        "serializedFile": "model.pt",
        "configFile": "model-config.yaml",
    }
    (folder / MANIFEST).parent.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps({"model": manifest}))
    config = {"batchSize": 2, "handler": options or {}}
    (folder / "model-config.yaml").write_text(yaml.safe_dump(config))
    if labels is not None:
        names = {str(index): label for index, label in enumerate(labels)}
        (folder / "index_to_name.json").write_text(json.dumps(names))
    if transforms is not None:
        (folder / "transforms.py").write_text(transforms)
    return folder


def as_json(value: Any, **headers: str) -> Input:
    """A request with a JSON body."""
    return Input.raw(json.dumps(value).encode(), "application/json", **headers)


def ask(loaded: LoadedArchive, sent: Input | bytes) -> Response:
    """The response to a request alone in its batch."""
    (answer,) = loaded.predict([sent])
    return answer


def handler_of(loaded: LoadedArchive) -> Any:
    """The handler of a loaded archive."""
    return loaded._service._entry_point.__self__
