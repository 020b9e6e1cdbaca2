"""A model with two named inputs and two outputs, saved for every engine, and its archive."""

from __future__ import annotations

import json
import textwrap
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml

from vestal.mar.layout import MANIFEST
from vestal_handlers.engines.eager import build

MODEL = """
    import torch
    from torch import Tensor, nn


    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.layer = nn.Embedding(10, 8), nn.Linear(8, 3)

        def forward(self, ids: Tensor, weights: Tensor) -> dict[str, Tensor]:
            pooled = (self.embedding(ids) * weights.unsqueeze(-1)).sum(1)
            return {"logits": self.layer(pooled), "total": weights.log().sum(1)}


    def build():
        torch.manual_seed(0)
        return Pair()
"""
HANDLER = """
    import torch
    from vestal_handlers import BatchHandler, InputError


    class Handler(BatchHandler):
        all_outputs = True

        def example_input(self):
            return {"ids": torch.zeros(4, dtype=torch.int64), "weights": torch.ones(4)}

        def decode(self, instance):
            if not isinstance(instance.payload, dict):
                raise InputError(422, "expected ids and weights")
            weights = torch.tensor(instance.payload["weights"])
            return {"weights": weights, "ids": torch.tensor(instance.payload["ids"])}

        def encode(self, output, instance):
            if isinstance(output, dict):
                return {name: each.tolist() for name, each in output.items()}
            return output.tolist() if isinstance(output, torch.Tensor) else list(map(repr, output))
"""
FILES = {
    "eager": "model.pth",
    "torchscript": "model.pt",
    "traced": "traced.pt",
    "exported": "model.pt2",
    "exported by keywords": "keywords.pt2",
    "exported for 3 rows": "three.pt2",
    "onnx": "model.onnx",
    "onnx for 3 rows": "three.onnx",
    "openvino": "model.xml",
    "openvino for 3 rows": "three.xml",
}
INPUTS = {
    "ids": torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 0, 1, 2]]),
    "weights": torch.tensor([[1.0, 0.5, 0.25, 2.0]] * 3),
}


def write_models(folder: Path) -> torch.nn.Module:
    """Save the model for every engine in one folder; return it in eval mode."""
    (folder / "model.py").write_text(textwrap.dedent(MODEL))
    module = build(folder).eval()
    torch.save(module.state_dict(), folder / "model.pth")
    args, batch = tuple(INPUTS.values()), {0: torch.export.Dim("batch", min=1)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(module).save(str(folder / "model.pt"))
        torch.jit.trace(module, args, strict=False).save(str(folder / "traced.pt"))
        for file, shapes in (("model", (batch, batch)), ("three", None)):
            program = torch.export.export(module, args, dynamic_shapes=shapes)
            torch.export.save(program, folder / f"{file}.pt2")
            torch.onnx.export(
                module, args, folder / f"{file}.onnx", dynamo=True, dynamic_shapes=shapes,
                external_data=False, verbose=False, output_names=["logits", "total"],
            )  # fmt: skip
            to_openvino(folder / f"{file}.onnx")
        reverse = dict(reversed(INPUTS.items()))
        by_name = dict.fromkeys(INPUTS, batch)
        program = torch.export.export(module, (), reverse, dynamic_shapes=by_name)
        torch.export.save(program, folder / "keywords.pt2")
    return module


def to_openvino(onnx: Path) -> None:
    """Convert an .onnx file to an .xml and a .bin beside it."""
    import openvino

    model = openvino.convert_model(onnx, verbose=False)
    openvino.save_model(model, onnx.with_suffix(".xml"), compress_to_fp16=False)


def write_pair(
    folder: Path, models: Path, file: str, handler: str = HANDLER, **options: Any
) -> Path:
    """Write the unpacked archive of one of the files of `write_models`.

    Args:
        models: the folder of `write_models`.
        options: the section `handler:` of model-config.yaml.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = (file, f"{file[:-4]}.bin") if file.endswith(".xml") else (file,)
    for name in ("model.py", *files):
        (folder / name).write_bytes((models / name).read_bytes())
    (folder / "handler.py").write_text(textwrap.dedent(handler))
    manifest = {
        "modelName": "pair",
        "modelVersion": "1.0",
        "handler": "handler.py",
        "serializedFile": file,
        "configFile": "model-config.yaml",
    }
    (folder / MANIFEST).parent.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps({"model": manifest}))
    config = {"batchSize": 4, "handler": options}
    (folder / "model-config.yaml").write_text(yaml.safe_dump(config))
    return folder
