"""The image processor of a pretrained model as an `ImageTransform`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoImageProcessor

from vestal_handlers.images.decoding import ImageTransform


class ProcessorStep:
    """Calls an image processor with a decoded image, uint8 [3, H, W]."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, image: Tensor) -> Tensor:
        values: Tensor = self._processor(images=image, return_tensors="pt")["pixel_values"][0]
        return values


def processor_transform(folder: Path) -> ImageTransform:
    """Return the transform of a folder with a preprocessor_config.json.

    Raises:
        OSError: there is no such file.
    """
    processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
        folder, local_files_only=True, trust_remote_code=False
    )
    return ImageTransform(mode="RGB", steps=[ProcessorStep(processor)])
