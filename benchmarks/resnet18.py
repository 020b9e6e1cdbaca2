"""Archives of the ResNet18 benchmark: with Vestal's handler and TorchServe's `image_classifier`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torchvision.models import resnet18

import vestal_handlers

MODEL = "from torchvision.models import resnet18\n\n\ndef build():\n    return resnet18()\n"
# TorchServe's handler requires exactly one class in this file (from its ResNet18 example).
STOCK_MODEL = """\
from torchvision.models.resnet import BasicBlock, ResNet


class ImageClassifier(ResNet):
    def __init__(self):
        super().__init__(BasicBlock, [2, 2, 2, 2])
"""
TRANSFORMS = """\
import torch
from torchvision.transforms import v2

from vestal_handlers.images.decoding import ImageTransform

transform = ImageTransform(
    "RGB",
    (
        v2.Resize(256, antialias=True),
        v2.CenterCrop(224),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ),
)
"""
HANDLER = """\
from vestal_handlers.tasks.image_classifier import ImageClassifier


class Handler(ImageClassifier):
    pass
"""


def sources(folder: Path, seed: int) -> None:
    """Create weights and code of both archives; the weights are random, from a seed."""
    torch.manual_seed(seed)
    torch.save(resnet18().state_dict(), folder / "model.pth")
    labels = {str(index): f"class {index}" for index in range(1000)}
    files = {
        "index_to_name.json": json.dumps(labels),
        "model.py": MODEL,
        "stock_model.py": STOCK_MODEL,
        "transforms.py": TRANSFORMS,
        "handler.py": HANDLER,
    }
    for name, text in files.items():
        (folder / name).write_text(text)


def ours(folder: Path, config: dict[str, Any]) -> Path:
    """Pack Vestal's handler, eager fp32."""
    rest = folder / "rest"
    rest.mkdir(exist_ok=True)
    package = Path(vestal_handlers.__file__).parent
    shutil.copytree(
        package,
        rest / package.name,
        ignore=shutil.ignore_patterns("__pycache__"),
        dirs_exist_ok=True,
    )
    for name in ("model.py", "transforms.py", "index_to_name.json"):
        shutil.copy(folder / name, rest)
    handler = str(folder / "handler.py")
    return _archive(folder, "vestal", config, "--handler", handler, "--extra-files", str(rest))


def stock(folder: Path, config: dict[str, Any]) -> Path:
    """Pack TorchServe's `image_classifier`, eager fp32."""
    return _archive(
        folder,
        "stock",
        config,
        *("--handler", "image_classifier", "--model-file", str(folder / "stock_model.py")),
        *("--extra-files", str(folder / "index_to_name.json")),
    )


def _archive(folder: Path, name: str, config: dict[str, Any], *arguments: str) -> Path:
    store = folder / "model_store"
    store.mkdir(exist_ok=True)
    (folder / "model-config.yaml").write_text(json.dumps(config))  # JSON is YAML
    subprocess.run(
        [
            *(sys.executable, "-m", "model_archiver.model_packaging"),
            *("--model-name", name, "--version", "1.0", "--force"),
            *("--serialized-file", str(folder / "model.pth")),
            *("--config-file", str(folder / "model-config.yaml")),
            *("--export-path", str(store), *arguments),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "TMPDIR": str(folder)},  # it deletes <tmp>/<name>
    )
    return store / f"{name}.mar"
