"""Image classification: bytes -> tensor -> class probabilities -> the k best labels."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vestal_handlers.base import BatchHandler
from vestal_handlers.decoding import MAX_PIXELS, ImageTransform, bytes_of
from vestal_handlers.model_files import load_module
from vestal_handlers.options import Options, number
from vestal_handlers.request import Instance


@dataclass(frozen=True, kw_only=True)
class ImageClassifierOptions(Options):
    """
    Attributes:
        top_k: how many classes an answer names; all, where the model has fewer.
        max_pixels: of one image, read from its header before anything is decoded.
    """

    top_k: int = number(3, at_least=1)
    max_pixels: int = number(MAX_PIXELS, at_least=1)


class ImageClassifier(BatchHandler):
    """Answers `{"label", "probability", "top": [{"label", "probability"}, ...]}`, best first."""

    options_type = ImageClassifierOptions
    options: ImageClassifierOptions

    def setup(self) -> None:
        # Pillow's own limit gives way to ours, which is an option and checked from the header.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, self.options.max_pixels)
        self.transform: ImageTransform = load_module(self.model_dir, "transforms").transform
        names = json.loads((self.model_dir / "index_to_name.json").read_text("utf-8"))
        self.labels = [names[str(index)] for index in range(len(names))]

    def blank(self) -> Tensor:
        return self.transform.blank()

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "labels": self.labels}

    def decode(self, instance: Instance) -> Tensor:
        data = bytes_of(instance.payload, "an image")
        return self.transform(self.transform.decode(data, self.options.max_pixels))

    def encode(self, output: Tensor, instance: Instance) -> dict[str, Any]:
        """`output`: logits [classes]. Probabilities are their softmax, in fp32."""
        if len(output) != len(self.labels):
            raise ValueError(f"{len(output)} outputs, but {len(self.labels)} labels")
        probabilities = torch.softmax(output.float(), dim=0)
        best = torch.topk(probabilities, min(self.options.top_k, len(self.labels)))
        top = [
            {"label": self.labels[index], "probability": probability}
            for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        return {**top[0], "top": top}
