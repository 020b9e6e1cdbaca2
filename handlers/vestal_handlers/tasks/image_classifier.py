"""Image classification: bytes -> tensor -> class probabilities -> the k best labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vestal_handlers.requests.request import Instance
from vestal_handlers.requests.responses import Media
from vestal_handlers.tasks.classifier import TOP_K, Classifier, ClassifierOptions
from vestal_handlers.tasks.explaining import heat_map, model_view
from vestal_handlers.tasks.image_task import ImageOptions, ImageTask

PNG = "image/png"


@dataclass(frozen=True, kw_only=True)
class ImageClassifierOptions(ClassifierOptions, ImageOptions):
    """The options of a classifier and of images."""


class ImageClassifier(ImageTask, Classifier):
    """Classifies an image: the body, base64, or nested lists of numbers, or `{"data": image}`."""

    options_type = ImageClassifierOptions
    options: ImageClassifierOptions

    def explain(self, sample: Tensor, instance: Instance) -> dict[str, Any] | Media:
        """The prediction with `attributions`, at most 32 x 32 cells of the input, or a PNG.

        The baseline is a black image.
        """
        blank = self.transform.example_input()
        # If the transform keeps the size of the image, one black pixel is repeated.
        black = blank if blank.shape == sample.shape else blank[:, :1, :1].expand_as(sample)
        prediction, attribution = self.attribute(sample, black, instance)
        if _wants_png(instance):
            picture = model_view(self.transform, self._image(instance))
            return Media(heat_map(picture, attribution.values), PNG)
        return {**prediction, "shape": list(sample.shape), "attributions": attribution.cells()}

    def extra_fields(self) -> dict[str, Any]:
        """The number of classes; for explanations, the class and the form of the response."""
        form = {"enum": ["json", "png"]}
        return {"top_k": TOP_K, "target": self.target_schema(), "format": form}


def _wants_png(instance: Instance) -> bool:
    name = instance.fields.get("format")
    return name == "png" or (not name and PNG in instance.request.headers.get("accept", ""))
