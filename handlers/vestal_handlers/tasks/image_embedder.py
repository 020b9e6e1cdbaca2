"""The vector of an image by a pretrained model, with its own image processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from vestal_handlers.images.decoding import ImageTransform
from vestal_handlers.images.processor import processor_transform
from vestal_handlers.pretrained import load_config
from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.image_task import ImageOptions, ImageTask
from vestal_handlers.tasks.pretrained_task import load_module_engine


@dataclass(frozen=True, kw_only=True)
class ImageEmbedderOptions(ImageOptions):
    """
    Attributes:
        normalized: whether the vector has the length 1.
    """

    normalized: bool = False


class ImageEmbedder(ImageTask):
    """Predicts `{"embedding": [...]}`: the pooled output of the model, or that of its first token
    if it has no pooling."""

    auto_class: ClassVar[str] = "AutoModel"
    options_type = ImageEmbedderOptions
    options: ImageEmbedderOptions
    all_outputs: ClassVar[bool] = True

    def load_engine(self, artifact: Path) -> Any:
        self.model_config = load_config(self.model_dir)
        if artifact.suffix != ".safetensors":
            return super().load_engine(artifact)
        return load_module_engine(self, artifact)

    def load_transform(self) -> ImageTransform:
        return processor_transform(self.model_dir)

    def encode(self, output: Mapping[str, Tensor], instance: Instance) -> dict[str, Any]:
        pooled = output.get("pooler_output")
        vector = output["last_hidden_state"][0] if pooled is None else pooled.flatten()
        vector = vector.float()
        return {
            "embedding": (normalize(vector, dim=0) if self.options.normalized else vector).tolist()
        }

    def output_schema(self) -> dict[str, Any]:
        vector = {"type": "array", "items": {"type": "number"}}
        return {"type": "object", "properties": {"embedding": vector}, "required": ["embedding"]}
