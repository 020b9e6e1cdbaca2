"""The part of a text that answers a question, by a pretrained model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vestal_handlers.requests.request import Instance
from vestal_handlers.requests.schema_parts import at_least_one
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions
from vestal_handlers.text.spans import PREDICTION_SCHEMA, SpanOptions, best_answers, check_words


@dataclass(frozen=True, kw_only=True)
class QuestionAnswererOptions(SpanOptions, PretrainedTextOptions):
    """The options of answers, and those of texts."""


class QuestionAnswerer(PretrainedText):
    """Predicts `{"answer", "probability", "start", "end", "top"}`, by places in `context`."""

    auto_class = "AutoModelForQuestionAnswering"
    options_type = QuestionAnswererOptions
    options: QuestionAnswererOptions
    token_outputs: ClassVar[Collection[str]] = ("start_logits", "end_logits")
    texts: ClassVar[Sequence[str]] = ("question", "context")

    def fields(self) -> dict[str, Any]:
        return {"top_k": at_least_one(self.options.max_top_k)}

    def required(self) -> list[str]:
        return list(self.texts)

    def example(self) -> dict[str, Any]:
        return {"question": "What does the fox jump over?", "context": super().example()["text"]}

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        question, context = request["question"], request["context"]
        windows = self.tokenizer.encode_windows(context, question, stride=self.options.stride)
        check_words(question, windows)
        return ModelInputs([self.tokenizer.tensors(each) for each in windows], (context, windows))

    def head(self, output: Mapping[str, Tensor], row: Mapping[str, Tensor]) -> Tensor:
        """Logits [2, T] of the first and the last token of the answer."""
        return torch.stack([output["start_logits"], output["end_logits"]])

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        context, windows = instance.sample.context
        count = int(instance.fields.get("top_k", self.options.top_k))
        top = best_answers(context, windows, output, count, self.options)
        return {**top[0], "top": top}

    def output_schema(self) -> dict[str, Any]:
        return PREDICTION_SCHEMA
