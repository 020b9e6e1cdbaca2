"""The part of a text that answers a question, by a pretrained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vestal_handlers.errors import InputError
from vestal_handlers.options import number
from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.classifier import PROBABILITY
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions


@dataclass(frozen=True, kw_only=True)
class QuestionAnswererOptions(PretrainedTextOptions):
    """
    Attributes:
        stride: tokens that two windows of a long context share.
        max_answer_tokens: tokens of an answer.
        no_answer: the model was trained to find that a context has no answer (SQuAD 2.0).
    """

    stride: int = number(128, at_least=0)
    max_answer_tokens: int = number(30, at_least=1)
    no_answer: bool = False


class QuestionAnswerer(PretrainedText):
    """Predicts `{"answer", "probability", "start", "end"}`, the place in `context`, or null."""

    auto_class = "AutoModelForQuestionAnswering"
    options_type = QuestionAnswererOptions
    options: QuestionAnswererOptions

    def fields(self) -> dict[str, Any]:
        return {"question": {"type": "string", "minLength": 1}, "context": {"type": "string"}}

    def required(self) -> list[str]:
        return ["question", "context"]

    def example(self) -> dict[str, Any]:
        return {
            "question": "What does the fox jump over?",
            "context": "The quick brown fox jumps over the lazy dog.",
        }

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        windows = self.tokenizer.encode_windows(
            request["context"], request["question"], stride=self.options.stride, what="the input"
        )
        if 1 not in windows[0].sequence_ids:
            raise InputError(422, "field 'context' has no words")
        return ModelInputs([self.tokenizer.tensors(each) for each in windows], (request, windows))

    def head(self, output: Mapping[str, Tensor], row: Mapping[str, Tensor]) -> Tensor:
        """Logits [2, T] of the first and the last token of the answer."""
        return torch.stack([output["start_logits"], output["end_logits"]])

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        request, windows = instance.sample.context
        spans = [self._span(*each) for each in zip(output, windows, strict=True)]
        best, start, end = max(span[:3] for span in spans)
        nothing = min(span[3] for span in spans)
        if start == end or (self.options.no_answer and nothing > best):
            return {"answer": None, "probability": nothing, "start": None, "end": None}
        answer = request["context"][start:end]
        return {"answer": answer, "probability": best, "start": start, "end": end}

    def _span(self, logits: Tensor, window: Any) -> tuple[float, int, int, float]:
        """The best answer of a window: its probability, its place, and that of no answer."""
        inside = torch.tensor([number == 1 for number in window.sequence_ids])
        possible = inside.clone()
        possible[0] |= self.options.no_answer  # the first token stands for no answer
        first, last = logits.masked_fill(~possible, -torch.inf).softmax(-1)
        nothing = float(first[0] * last[0])
        first, last = first * inside, last * inside
        spans = torch.outer(first, last).triu().tril(self.options.max_answer_tokens - 1)
        start, end = divmod(int(spans.argmax()), len(inside))
        place = window.offsets[start][0], window.offsets[end][1]
        return float(spans[start, end]), *place, nothing

    def output_schema(self) -> dict[str, Any]:
        place = {"type": ["integer", "null"], "minimum": 0}
        fields = {"answer": {"type": ["string", "null"]}, "probability": PROBABILITY}
        fields |= {"start": place, "end": place}
        return {"type": "object", "properties": fields, "required": list(fields)}
