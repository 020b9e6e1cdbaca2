"""The base of tasks on images: bytes -> pixels -> the model's input."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image
from torch import Tensor

from vestal_handlers.base import BatchHandler
from vestal_handlers.errors import InputError
from vestal_handlers.images.decoding import (
    MAX_FRAMES,
    MAX_PIXELS,
    ImageTransform,
    bytes_of,
    image_size,
)
from vestal_handlers.images.fast_transform import FastTransform
from vestal_handlers.images.flattening import colour_of
from vestal_handlers.images.limits import TransformLimit
from vestal_handlers.images.pixels import PIXELS_SCHEMA
from vestal_handlers.model_files import load_module
from vestal_handlers.options import Options, number
from vestal_handlers.requests.fields import parse_fields
from vestal_handlers.requests.inference_api import request_schema
from vestal_handlers.requests.request import InferenceRequest, Instance
from vestal_handlers.requests.schema import validate


@dataclass(frozen=True, kw_only=True)
class ImageOptions(Options):
    """
    Attributes:
        max_pixels: pixels of one image, read from its header before decoding; an image that the
            transform enlarges may have a tenth of it.
        max_request_pixels: pixels of all images of one request, before or after the transform.
        fast_jpeg: scale a JPEG while it is decoded, down to the size that the transform resizes
            to; faster, but the pixels differ slightly from those in training.
        max_frames: frames of one file; only the first is decoded and classified.
        background: the colour behind a transparent image, also in training: white, black, another
            CSS name or "#rrggbb".
    """

    fast_jpeg: bool = False
    max_pixels: int = number(MAX_PIXELS, at_least=1)
    max_request_pixels: int = number(2 * MAX_PIXELS, at_least=1)
    max_frames: int = number(MAX_FRAMES, at_least=1)
    background: str = "white"


class ImageTask(BatchHandler):
    """Takes an image: the body, base64, or nested lists of numbers, or `{"data": image}`."""

    options_type = ImageOptions
    options: ImageOptions

    def setup(self) -> None:
        super().setup()
        # max_pixels replaces Pillow's own limit and is checked from the header.
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, self.options.max_pixels)
        self.background = colour_of(self.options.background)
        self.transform = self.load_transform()
        self.apply_transform = FastTransform(self.transform)
        self.limit = TransformLimit(self.transform.steps, self.options.max_pixels)
        if self.options.fast_jpeg and self.transform.scale_to is None:
            raise ValueError(
                "handler.fast_jpeg needs a transform that begins with v2.Resize; remove the option"
            )

    def load_transform(self) -> ImageTransform:
        """Load the transform of the model: that of the archive's transforms.py."""
        transform: ImageTransform = load_module(self.model_dir, "transforms").transform
        return transform

    def example_input(self) -> Tensor:
        return self.transform.example_input()

    def check_request(self, request: InferenceRequest) -> None:
        """Add up the pixels of several images in order; images beyond the limit get 413."""
        super().check_request(request)
        if len(request.instances) == 1:
            return
        left = self.options.max_request_pixels
        for instance in request.instances:
            left -= self._pixels_of(instance)
            if left < 0:
                instance.error = InputError(
                    413,
                    f"more than {self.options.max_request_pixels:,} pixels in one request "
                    "(handler.max_request_pixels); send fewer images at once",
                )

    def decode(self, instance: Instance) -> Tensor:
        if instance.form and instance.fields:
            instance.payload = parse_fields(instance.fields, self.extra_fields())
        image = self._image(instance)
        self.limit.check(tuple(image.shape))
        return self.apply_transform(image)

    def input_schema(self) -> dict[str, Any]:
        """An image can also be the raw body or a file of a form."""
        text = {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*"}
        named = {
            "type": "object",
            "properties": {"b64": text},
            "required": ["b64"],
            "additionalProperties": False,
        }
        with_options = {
            "type": "object",
            "properties": {
                "data": {"anyOf": [text, named, PIXELS_SCHEMA]},
                **self.extra_fields(),
            },
            "required": ["data"],
            "additionalProperties": False,
        }
        own = [] if self.input_field is None else [request_schema(with_options, [self.input_field])]
        return {"anyOf": [text, named, PIXELS_SCHEMA, with_options, *own]}

    def extra_fields(self) -> dict[str, Any]:
        """JSON Schemas of fields that may stand beside `data`, by name."""
        return {}

    def example(self) -> dict[str, Any]:
        stream = BytesIO()
        Image.new(self.transform.mode, (8, 8)).save(stream, "PNG")
        return {"b64": base64.b64encode(stream.getvalue()).decode()}

    def limits(self) -> dict[str, Any]:
        names = ("max_pixels", "max_request_pixels", "max_frames")
        return {**super().limits(), **{name: getattr(self.options, name) for name in names}}

    def _pixels_of(self, instance: Instance) -> int:
        """The pixels of the image, or of the transformed image if more; 0 if it is not valid."""
        payload = instance.payload
        payload = payload.get("data", payload) if isinstance(payload, dict) else payload
        if isinstance(payload, list):
            width = len(payload[0]) if payload and isinstance(payload[0], list) else 0
            size = (width, len(payload))
        else:
            try:
                size = image_size(bytes_of(payload, "an image"))
            except InputError:
                return 0
        return self.limit.most_pixels(size, 1 if self.transform.mode == "L" else 3)

    def _image(self, instance: Instance) -> Tensor:
        payload = instance.payload
        if isinstance(payload, dict):
            # An array is checked faster while it is read; here, a string takes its place.
            text = {"data": ""} if isinstance(payload.get("data"), list) else {}
            validate({**payload, **text}, self.input_schema(), "the input")
            payload = payload.get("data", payload)
        data = payload if isinstance(payload, list) else bytes_of(payload, "an image")
        options = self.options
        return self.transform.decode(
            data, options.max_pixels, options.fast_jpeg, options.max_frames, self.background
        )
