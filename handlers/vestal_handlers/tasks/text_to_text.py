"""A text from a text by an encoder and a decoder: summaries, translations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions
from vestal_handlers.text.encoder_decoder import PREDICTION_SCHEMA, DecodingOptions, EncoderDecoder


@dataclass(frozen=True, kw_only=True)
class TextToTextOptions(DecodingOptions, PretrainedTextOptions):
    """The options of generated texts, and those of texts."""


class TextToText(PretrainedText):
    """Predicts `{"text", "finish_reason", "tokens", "completion_tokens"}`."""

    auto_class = "AutoModelForSeq2SeqLM"
    options_type = TextToTextOptions
    options: TextToTextOptions

    def setup(self) -> None:
        super().setup()
        self.model = EncoderDecoder(self.engine.module, self.tokenizer.tokenizer, self.options)

    def fields(self) -> dict[str, Any]:
        return self.model.fields()

    def example(self) -> dict[str, Any]:
        return {**super().example(), **self.model.example()}

    def example_input(self) -> ModelInputs:
        return self.inputs_of({**self.example(), "truncate": "right", "max_new_tokens": 2})

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        text = self.options.prefix + request["text"]
        encoding = self.tokenizer.encode(text, truncate=request["truncate"])
        inputs = self.model.inputs(self.tokenizer.tensors(encoding), encoding, request)
        return ModelInputs([inputs], self.model.settings(request))

    def forward(self, samples: Sequence[ModelInputs]) -> list[Tensor]:
        texts = [(sample.rows[0], sample.context) for sample in samples]
        return self.model.generate(texts, self.device, self.deadline, self.options.max_forward)

    def encode(self, output: Tensor, instance: Instance) -> dict[str, Any]:
        return self.model.completion(output, instance.sample.rows[0], instance.sample.context)

    def limits(self) -> dict[str, Any]:
        return {**super().limits(), **self.model.limits()}

    def output_schema(self) -> dict[str, Any]:
        return PREDICTION_SCHEMA
