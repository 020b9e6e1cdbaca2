"""Archives to check, written without vestal pack or torch-model-archiver."""

from __future__ import annotations

import hashlib
import json
import platform
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

import vestal_handlers
from vestal.checking import Severity, check

HANDLE = "def handle(data, context):\n    return data\n"
BILL = "bill-of-materials.json"
PNG = bytes.fromhex(  # 1 x 1, grey
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c636000000002000148afa4710000000049454e44ae426082"
)
TRANSFORMS = """
import torch
from torchvision.transforms import v2

from vestal_handlers.images.decoding import ImageTransform

transform = ImageTransform(
    mode="L", steps=(v2.Resize((8, 8)), v2.ToDtype(torch.float32, scale=True))
)
"""
MODEL = """
from torch import nn


def build() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
"""
CONFIG = """
minWorkers: 1
maxWorkers: 1
batchSize: 2
maxBatchDelay: 10
responseTimeout: 60
handler:
  top_k: 2
"""
HANDLER = """
from vestal_handlers.tasks.image_classifier import ImageClassifier


class Handler(ImageClassifier):
    pass
"""
STOCK_MODEL = """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 5)

    def forward(self, images):
        return self.fc(images.mean((2, 3)))
"""


class Net(nn.Module):
    """The class of STOCK_MODEL, for its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.mean((2, 3)))


@dataclass
class Draft:
    """An archive before it is written; tests plant their defects in it.

    Attributes:
        late: functions that write into the open zip after everything else.
    """

    files: dict[str, bytes]
    manifest: dict[str, Any] | None
    bill: dict[str, Any] | None = None
    late: list[Callable[[zipfile.ZipFile], object]] = field(default_factory=list)

    def text(self, name: str, text: str) -> None:
        self.files[name] = text.encode()

    def change(self, name: str, old: str, new: str) -> None:
        text = self.files[name].decode()
        assert old in text
        self.text(name, text.replace(old, new))

    def seal(self) -> None:
        """Write the bill; files that change later no longer match it."""
        if self.bill is not None and BILL not in self.files:
            sums = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
            self.text(BILL, json.dumps({**self.bill, "files": sums}))

    def members(self) -> dict[str, bytes]:
        self.seal()
        manifest = (
            {}
            if self.manifest is None
            else {"MAR-INF/MANIFEST.json": json.dumps(self.manifest).encode()}
        )
        return {**manifest, **self.files}

    def write(self, path: Path) -> Path:
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
            warnings.filterwarnings("ignore", message="Duplicate name")
            for name, data in sorted(self.members().items()):
                archive.writestr(name, data)
            for write in self.late:
                write(archive)
        return path

    def write_folder(self, folder: Path) -> Path:
        for name, data in self.members().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return folder


def ours() -> Draft:
    """A good archive in the layout of `vestal pack`: an eager image classifier of two classes."""
    package = Path(vestal_handlers.__file__).parent
    sources = {
        f"vestal_handlers/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in package.rglob("*.py")
    }
    answer = {
        "label": "even",
        "index": 0,
        "probability": 0.5,
        "top": [
            {"label": "even", "index": 0, "probability": 0.5},
            {"label": "odd", "index": 1, "probability": 0.5},
        ],
    }
    sample = {
        "input": "input.png",
        "content_type": "image/png",
        "answer": answer,
        "tolerance": 1e-4,
    }
    return Draft(
        files={
            **sources,
            "handler.py": HANDLER.encode(),
            "model.py": MODEL.encode(),
            "transforms.py": TRANSFORMS.encode(),
            "model-config.yaml": CONFIG.encode(),
            "model.pth": saved({"1.weight": torch.zeros(2, 64), "1.bias": torch.zeros(2)}),
            "index_to_name.json": b'{"0": "even", "1": "odd"}',
            "sample/input.png": PNG,
            "sample/sample.json": json.dumps(sample).encode(),
        },
        manifest={
            "runtime": "python",
            "archiverVersion": "0.12.0",
            "model": {
                "modelName": "parity",
                "modelVersion": "1.0",
                "handler": "handler.py",
                "serializedFile": "model.pth",
                "configFile": "model-config.yaml",
            },
        },
        bill={
            "format": 1,
            "model": "parity",
            "version": "1.0",
            "task": "image_classifier",
            "engine": "eager",
            "precision": "fp32",
            "artifact": "model.pth",
            "built_on": {
                "python": platform.python_version(),
                "torch": version("torch"),
                "machine": platform.machine(),
            },
            "packages": {name: version(name) for name in ("torch", "torchvision", "pillow")},
        },
    )


def simple(handler: str) -> Draft:
    """An archive that Vestal did not pack, with one file: a handler without weights."""
    return Draft(
        files={"my_handler.py": handler.encode()},
        manifest={
            "runtime": "python",
            "model": {"modelName": "simple", "modelVersion": "1.0", "handler": "my_handler.py"},
        },
    )


def stock(handler: str = "image_classifier") -> Draft:
    """An archive for one of TorchServe's own handlers, with a model file and its weights."""
    return Draft(
        files={"net.py": STOCK_MODEL.encode(), "net.pth": saved(Net().state_dict())},
        manifest={
            "runtime": "python",
            "model": {
                "modelName": "net",
                "modelVersion": "1.0",
                "handler": handler,
                "modelFile": "net.py",
                "serializedFile": "net.pth",
            },
        },
    )


def saved(value: Any, **options: Any) -> bytes:
    """The bytes that torch.save writes."""
    stream = BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def torchscript(module: nn.Module) -> bytes:
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit")
        torch.jit.save(torch.jit.script(module.eval()), stream)
    return stream.getvalue()


def codes_in(archive: Path) -> list[tuple[str, str]]:
    """Severity and code of every finding except notes."""
    findings = check(archive).findings
    return [(f.severity, f.code) for f in findings if f.severity != Severity.NOTE]
