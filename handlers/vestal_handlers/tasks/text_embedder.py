"""Vectors of texts by a pretrained model: one for a sentence, or one for each token."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import normalize

from vestal_handlers.requests.request import Instance
from vestal_handlers.requests.schema_parts import COUNT, SWITCH, VECTOR, list_of, object_of
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions
from vestal_handlers.text.pooling import PoolingOptions, pool, pooling_of_folder


@dataclass(frozen=True, kw_only=True)
class TextEmbedderOptions(PoolingOptions, PretrainedTextOptions):
    """The options of pooling, and those of texts."""


class TextEmbedder(PretrainedText):
    """Predicts `{"embedding": [...], "tokens": number}`; without pooling, a list for each token."""

    auto_class = "AutoModel"
    options_type = TextEmbedderOptions
    options: TextEmbedderOptions
    token_outputs: ClassVar[Collection[str]] = ("last_hidden_state",)

    def setup(self) -> None:
        super().setup()
        pooling, normalized = pooling_of_folder(self.model_dir)
        own = self.options
        self.pooling = pooling if own.pooling is None else own.pooling
        self.normalize = normalized if own.normalize is None else own.normalize

    def fields(self) -> dict[str, Any]:
        return {"normalize": SWITCH}

    def head(self, output: Mapping[str, Tensor], row: Mapping[str, Tensor]) -> Tensor:
        """One vector [size], or one for each token [T, size]."""
        return pool(output["last_hidden_state"].float(), self.pooling)

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        vector = output[0]
        if instance.fields.get("normalize", self.normalize):
            vector = normalize(vector, dim=-1)
        return {"embedding": vector.tolist(), "tokens": len(instance.sample.rows[0]["input_ids"])}

    def output_schema(self) -> dict[str, Any]:
        vector = list_of(VECTOR) if self.pooling == "none" else VECTOR
        return object_of({"embedding": vector, "tokens": COUNT})
