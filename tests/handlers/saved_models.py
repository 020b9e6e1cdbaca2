"""Two seeded models, saved for every engine."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path

import torch
from pairs import to_openvino

from vestal_handlers import engines
from vestal_handlers.engines.eager import build

CPU = torch.device("cpu")


ARCHITECTURES = {
    "conv": """
        from torch import nn

        def build():
            return nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(8, 16, 3), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(576, 5),
            )
    """,
    "mlp": """
        from torch import nn

        def build():
            return nn.Sequential(nn.Linear(3, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 1))
    """,
}


INPUTS = {"conv": (3, 16, 16), "mlp": (3,)}


class SavedModel:
    """A seeded module in eval mode, saved for every engine in one folder, unless it is there."""

    def __init__(self, folder: Path, kind: str) -> None:
        saved = folder.exists()
        if not saved:
            folder.mkdir()
            (folder / "model.py").write_text(textwrap.dedent(ARCHITECTURES[kind]))
        self.folder = folder
        torch.manual_seed(0)
        self.module = build(folder)
        self.inputs = torch.randn(8, *INPUTS[kind])
        self.module(self.inputs)  # in training mode: sets the statistics of batch norm
        self.module.eval()
        if not saved:
            self._save(folder)

    def _save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        torch.save(self.module.state_dict(), folder / "model.pth")
        save_file(self.module.state_dict(), folder / "model.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(self.module, self.inputs[:2]).save(folder / "model.pt")
        self.export(folder / "model.pt2", {0: torch.export.Dim("batch", min=1)})
        self.export(folder / "one.pt2", None, 1)
        self.to_onnx(folder / "model.onnx", {0: torch.export.Dim("batch", min=1)})
        self.to_onnx(folder / "three.onnx", None, 3)
        for name in ("model", "three"):
            to_openvino(folder / f"{name}.onnx")

    def export(self, path: Path, dynamic: dict | None, rows: int = 2) -> None:
        shapes = (dynamic,) if dynamic else None
        program = torch.export.export(self.module, (self.inputs[:rows],), dynamic_shapes=shapes)
        torch.export.save(program, path)

    def to_onnx(self, path: Path, dynamic: dict | None, rows: int = 2) -> None:
        torch.onnx.export(
            self.module,
            (self.inputs[:rows],),
            path,
            dynamo=True,
            dynamic_shapes=(dynamic,) if dynamic else None,
            external_data=False,
            verbose=False,
        )

    def plain(self, rows: int = 8) -> torch.Tensor:
        """The outputs of the module itself."""
        with torch.no_grad():
            return self.module(self.inputs[:rows])

    def run(self, file: str, rows: int = 8, **options) -> torch.Tensor:
        """The outputs of the engine for a file."""
        with torch.inference_mode():
            return engines.load(self.folder / file, CPU, **options)(self.inputs[:rows])
