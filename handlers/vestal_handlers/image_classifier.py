"""Image classification: bytes -> tensor -> class probabilities -> the k best labels."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image
from torch import Tensor

from vestal_handlers.answers import Media
from vestal_handlers.classes import Classifier, ClassifierOptions
from vestal_handlers.decoding import MAX_PIXELS, ImageTransform, bytes_of
from vestal_handlers.explaining import heat_map, seen
from vestal_handlers.model_files import load_module
from vestal_handlers.options import number
from vestal_handlers.request import Instance
from vestal_handlers.schema import validate

PNG = "image/png"


@dataclass(frozen=True, kw_only=True)
class ImageClassifierOptions(ClassifierOptions):
    """
    Attributes:
        max_pixels: of one image, read from its header before anything is decoded.
        fast_jpeg: scale a JPEG while it is decoded, down to what the transform resizes it to;
            faster, and not quite the pixels of training.
    """

    fast_jpeg: bool = False
    max_pixels: int = number(MAX_PIXELS, at_least=1)


class ImageClassifier(Classifier):
    """Takes an image: as the body, as base64, or as `{"data": base64}` with fields beside it."""

    options_type = ImageClassifierOptions
    options: ImageClassifierOptions

    def setup(self) -> None:
        super().setup()
        # Pillow's own limit gives way to ours, which is an option and checked from the header.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, self.options.max_pixels)
        self.transform: ImageTransform = load_module(self.model_dir, "transforms").transform
        if self.options.fast_jpeg and self.transform.scale_to is None:
            raise ValueError("handler.fast_jpeg needs a transform whose first step is v2.Resize")

    def blank(self) -> Tensor:
        return self.transform.blank()

    def decode(self, instance: Instance) -> Tensor:
        return self.transform(self._image(instance))

    def explain(self, sample: Tensor, instance: Instance) -> dict[str, Any] | Media:
        """The answer with `attributions`, at most 32 x 32 cells of the model's input, or a PNG.

        The baseline is a black image.
        """
        blank = self.transform.blank()
        # Black stays black: one pixel of it does for a transform that keeps the image's size.
        black = blank if blank.shape == sample.shape else blank[:, :1, :1].expand_as(sample)
        answer, found = self.attribute(sample, black, instance)
        if _wants_png(instance):
            picture = seen(self.transform, self._image(instance))
            return Media(heat_map(picture, found.values), PNG)
        return {**answer, "shape": list(sample.shape), "attributions": found.cells()}

    def input_schema(self) -> dict[str, Any]:
        """An image is also the raw body, or a file of a form; `format` is an explanation's."""
        text = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*"}
        named = {
            "type": "object",
            "properties": {"b64": text},
            "required": ["b64"],
            "additionalProperties": False,
        }
        asking = {
            "type": "object",
            "properties": {
                "data": {"anyOf": [text, named]},
                "target": self.target_schema(),
                "format": {"enum": ["json", "png"]},
            },
            "required": ["data"],
            "additionalProperties": False,
        }
        return {"anyOf": [text, named, asking]}

    def example(self) -> dict[str, Any]:
        stream = BytesIO()
        Image.new(self.transform.mode, (8, 8)).save(stream, "PNG")
        return {"b64": base64.b64encode(stream.getvalue()).decode()}

    def limits(self) -> dict[str, Any]:
        return {**super().limits(), "max_pixels": self.options.max_pixels}

    def _image(self, instance: Instance) -> Tensor:
        payload = instance.payload
        if isinstance(payload, dict):
            validate(payload, self.input_schema(), "the input")
            payload = payload.get("data", payload)
        data = bytes_of(payload, "an image")
        return self.transform.decode(data, self.options.max_pixels, self.options.fast_jpeg)


def _wants_png(instance: Instance) -> bool:
    asked = instance.payload.get("format") if isinstance(instance.payload, dict) else None
    return asked == "png" or (not asked and PNG in instance.request.headers.get("accept", ""))
