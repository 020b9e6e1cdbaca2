"""The vector of an image by a pretrained model, with its own image processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from vestal_handlers.images.decoding import ImageTransform
from vestal_handlers.images.processor import processor_transform
from vestal_handlers.requests.request import Instance
from vestal_handlers.requests.schema_parts import SWITCH, VECTOR, object_of
from vestal_handlers.tasks.image_task import ImageOptions, ImageTask
from vestal_handlers.tasks.pretrained_task import PretrainedFolder


@dataclass(frozen=True, kw_only=True)
class ImageEmbedderOptions(ImageOptions):
    """
    Attributes:
        normalize: whether the vector gets the length 1, unless the request has its own.
    """

    normalize: bool = False


class ImageEmbedder(PretrainedFolder, ImageTask):
    """Predicts `{"embedding": [...]}`: the pooled output of the model, or that of its first token
    if it has no pooling."""

    auto_class: ClassVar[str] = "AutoModel"
    options_type = ImageEmbedderOptions
    options: ImageEmbedderOptions
    all_outputs: ClassVar[bool] = True
    input_field: ClassVar[str | None] = "data"

    def load_transform(self) -> ImageTransform:
        return processor_transform(self.model_dir)

    def extra_fields(self) -> dict[str, Any]:
        return {"normalize": SWITCH}

    def encode(self, output: Mapping[str, Tensor], instance: Instance) -> dict[str, Any]:
        pooled = output.get("pooler_output")
        vector = output["last_hidden_state"][0] if pooled is None else pooled.flatten()
        if instance.fields.get("normalize", self.options.normalize):
            vector = normalize(vector, dim=0)
        return {"embedding": vector.tolist()}

    def output_schema(self) -> dict[str, Any]:
        return object_of({"embedding": VECTOR})
