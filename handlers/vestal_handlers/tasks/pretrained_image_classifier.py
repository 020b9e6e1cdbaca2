"""Classification of an image by a pretrained model, with its own image processor."""

from __future__ import annotations

from typing import ClassVar

from vestal_handlers.images.decoding import ImageTransform
from vestal_handlers.images.processor import processor_transform
from vestal_handlers.tasks.image_classifier import ImageClassifier
from vestal_handlers.tasks.pretrained_classifier import PretrainedClassifier
from vestal_handlers.tasks.pretrained_task import PretrainedFolder


class PretrainedImageClassifier(PretrainedFolder, ImageClassifier, PretrainedClassifier):
    """Predicts as `PretrainedClassifier`; explains as `ImageClassifier`."""

    auto_class: ClassVar[str] = "AutoModelForImageClassification"
    served_output: ClassVar[str | None] = "logits"
    input_field: ClassVar[str | None] = "data"

    def load_transform(self) -> ImageTransform:
        return processor_transform(self.model_dir)
