"""Classification of an image by a pretrained model, with its own image processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from vestal_handlers.images.decoding import ImageTransform
from vestal_handlers.images.processor import processor_transform
from vestal_handlers.pretrained import load_config
from vestal_handlers.tasks.image_classifier import ImageClassifier
from vestal_handlers.tasks.pretrained_classifier import PretrainedClassifier
from vestal_handlers.tasks.pretrained_task import load_module_engine


class PretrainedImageClassifier(ImageClassifier, PretrainedClassifier):
    """Predicts as `PretrainedClassifier`; explains as `ImageClassifier`."""

    auto_class: ClassVar[str] = "AutoModelForImageClassification"

    def load_engine(self, artifact: Path) -> Any:
        self.model_config = load_config(self.model_dir)
        if artifact.suffix != ".safetensors":
            return super().load_engine(artifact)
        return load_module_engine(self, artifact, output="logits")

    def load_transform(self) -> ImageTransform:
        return processor_transform(self.model_dir)
