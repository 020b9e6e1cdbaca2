"""The words that a pretrained model expects in the place of the mask token of a text."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from vestal_handlers.requests.request import Instance
from vestal_handlers.requests.schema_parts import at_least_one
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions
from vestal_handlers.text.masks import PREDICTION_SCHEMA, MaskOptions, Masks


@dataclass(frozen=True, kw_only=True)
class MaskFillerOptions(MaskOptions, PretrainedTextOptions):
    """The options of masks, and those of texts."""


class MaskFiller(PretrainedText):
    """Predicts `{"masks": [{"top": [{"word", "probability"}]}]}`, in the order of the text."""

    auto_class = "AutoModelForMaskedLM"
    options_type = MaskFillerOptions
    options: MaskFillerOptions
    token_outputs: ClassVar[Collection[str]] = ("logits",)

    def setup(self) -> None:
        super().setup()
        self.masks = Masks(self.tokenizer.tokenizer, self.options)

    def fields(self) -> dict[str, Any]:
        return {"top_k": at_least_one(self.options.max_top_k)}

    def example(self) -> dict[str, Any]:
        return {"text": f"The quick brown fox jumps over the {self.masks.token} dog."}

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        inputs = super().inputs_of(request)
        self.masks.check(inputs.rows[0]["input_ids"])
        return inputs

    def head(self, output: Mapping[str, Tensor], row: Mapping[str, Tensor]) -> Tensor:
        """Logits [masks, vocabulary]."""
        return output["logits"][self.masks.places(row["input_ids"])]

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        count = int(instance.fields.get("top_k", self.options.top_k))
        return {"masks": [{"top": top} for top in self.masks.words(output[0], count)]}

    def output_schema(self) -> dict[str, Any]:
        return PREDICTION_SCHEMA
