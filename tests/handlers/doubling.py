"""An unpacked archive whose model doubles numbers, so that expected results are exact.

Some numbers make a step of the handler fail; see `DOUBLER`.
"""

from __future__ import annotations

import json
import textwrap
import warnings
from pathlib import Path

import torch

from vestal.mar.layout import MANIFEST

DOUBLER = """
    import math
    import torch
    from vestal_handlers.requests.responses import Media
    from vestal_handlers.base import BatchHandler
    from vestal_handlers.errors import InputError


    class Handler(BatchHandler):
        rows_are_instances = True
        sizes = []

        def example_input(self):
            return torch.zeros(())

        def decode(self, instance):
            value = instance.payload
            if value == "broken decode":
                raise KeyError("secret")
            if isinstance(value, dict):
                value = value.get("x")
            if isinstance(value, list):
                (value,) = value
            if isinstance(value, bytes | bytearray):
                value = float(value.decode())
            if isinstance(value, str) and not instance.form:
                raise InputError(422, f"expected a number, got the string {value[:20]!r}")
            try:
                return torch.tensor(float(value))
            except (TypeError, ValueError):
                raise InputError(422, f"expected a number, got {str(value)[:20]}") from None

        def forward(self, samples):
            self.sizes.append(len(samples))
            if any(sample == 13 for sample in samples):
                raise RuntimeError("thirteen\\r\\nX-Evil: 1")
            if len(samples) > 2 and any(sample == 99 for sample in samples):
                raise torch.OutOfMemoryError("too many at once")
            if any(sample == 100 for sample in samples):
                raise MemoryError
            if any(sample == 101 for sample in samples):
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            if any(sample == 3.5 for sample in samples):
                return [None] * (len(samples) + 1)
            outputs = super().forward(samples)
            return [InputError(422, "not 17") if s == 17 else o for s, o in zip(samples, outputs)]

        def encode(self, output, instance):
            if output == 14:
                raise ValueError("seven cannot be encoded")
            if output == 16:
                return math.nan
            if output == 18:
                return Media(b"nine", "image/png")
            return {"doubled": output.item()}

        def explain(self, sample, instance):
            if sample == 13:
                raise RuntimeError("no reason")
            return {"because": sample.item()}
"""


class Doubler(torch.nn.Module):
    """Doubles numbers; the result for 5 is infinity."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x == 5, torch.inf, x * 2)


def write_doubler(folder: Path) -> Path:
    """Write the unpacked archive into an empty folder."""
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit")
        torch.jit.script(Doubler()).save(str(folder / "model.pt"))
    (folder / "handler.py").write_text(textwrap.dedent(DOUBLER))
    (folder / "MAR-INF").mkdir()
    model = {
        "modelName": "doubler",
        "modelVersion": "1.0",
        "handler": "handler.py",
        "serializedFile": "model.pt",
        "configFile": "model-config.yaml",
    }
    (folder / MANIFEST).write_text(json.dumps({"model": model}))
    (folder / "model-config.yaml").write_text("batchSize: 8\n")
    return folder
