"""The words that a pretrained model expects in the place of the mask token of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vestal_handlers.errors import InputError
from vestal_handlers.options import number
from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions


@dataclass(frozen=True, kw_only=True)
class MaskFillerOptions(PretrainedTextOptions):
    """
    Attributes:
        top_k: the number of words for each mask.
        max_masks: masks of one text.
    """

    top_k: int = number(5, at_least=1)
    max_masks: int = number(16, at_least=1)


class MaskFiller(PretrainedText):
    """Predicts `{"masks": [{"top": [{"word", "probability"}]}]}`, in the order of the text."""

    auto_class = "AutoModelForMaskedLM"
    options_type = MaskFillerOptions
    options: MaskFillerOptions

    def setup(self) -> None:
        super().setup()
        self.mask = self.tokenizer.tokenizer.mask_token_id
        if self.mask is None:
            raise ValueError("the tokenizer has no mask token")

    def example(self) -> dict[str, Any]:
        return {"text": f"The quick brown fox jumps over the {self._mask_token()} dog."}

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        inputs = super().inputs_of(request)
        count = int((inputs.rows[0]["input_ids"] == self.mask).sum())
        if not 0 < count <= self.options.max_masks:
            raise InputError(
                422,
                f"the text has {count} masks, expected 1 to {self.options.max_masks}: write "
                f"{self._mask_token()} in the place of a word",
            )
        return inputs

    def head(self, output: Mapping[str, Tensor], row: Mapping[str, Tensor]) -> Tensor:
        """Logits [masks, vocabulary]."""
        return output["logits"][row["input_ids"] == self.mask]

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        best = output[0].softmax(-1).topk(min(self.options.top_k, output[0].shape[-1]))
        decode = self.tokenizer.tokenizer.decode
        rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        masks = [
            [
                {"word": decode([token]).strip(), "probability": value}
                for value, token in zip(values, tokens, strict=True)
            ]
            for values, tokens in rows
        ]
        return {"masks": [{"top": top} for top in masks]}

    def _mask_token(self) -> str:
        return str(self.tokenizer.tokenizer.mask_token)
