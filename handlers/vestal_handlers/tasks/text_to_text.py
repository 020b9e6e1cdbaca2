"""A text from a text by an encoder and a decoder: summaries, translations."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import MaxTimeCriteria, StoppingCriteriaList

from vestal_handlers.errors import HandlerError
from vestal_handlers.forwarding import OUT_OF_TIME
from vestal_handlers.options import number
from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.pretrained_task import ModelInputs
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions


@dataclass(frozen=True, kw_only=True)
class TextToTextOptions(PretrainedTextOptions):
    """
    Attributes:
        prefix: stands before each text, such as "summarize: " for T5.
        max_new_tokens: the default for a request.
        max_new_tokens_limit: the maximum that a request may set.
        num_beams: beams of the search; None: as in generation_config.json.
    """

    prefix: str = ""
    max_new_tokens: int = number(128, at_least=1)
    max_new_tokens_limit: int = number(512, at_least=1)
    num_beams: int | None = number(None, at_least=1, at_most=16)


class TextToText(PretrainedText):
    """Predicts `{"text", "finish_reason", "tokens", "completion_tokens"}`."""

    auto_class = "AutoModelForSeq2SeqLM"
    options_type = TextToTextOptions
    options: TextToTextOptions

    def setup(self) -> None:
        super().setup()
        if self.engine.module is None:
            raise ValueError("text to text runs in transformers, not in another engine")
        options, config = self.options, self.engine.module.generation_config
        # The decoder has as many positions as the encoder, and starts with one token.
        positions = getattr(self.model_config, "max_position_embeddings", None)
        most = options.max_new_tokens_limit
        self.most = min(most, positions - 1) if positions else most
        self.generation: dict[str, Any] = {"do_sample": False}
        if options.num_beams is not None:
            self.generation["num_beams"] = options.num_beams
        config.max_length = None  # max_new_tokens takes its place, and transformers would warn
        self.least = config.min_length or 0
        self.ends = set(listed(config.eos_token_id))

    def fields(self) -> dict[str, Any]:
        new_tokens = {"type": "integer", "minimum": 1, "maximum": self.most}
        return {"text": {"type": "string"}, "max_new_tokens": new_tokens}

    def example_input(self) -> ModelInputs:
        return self.inputs_of({**self.example(), "truncate": "right", "max_new_tokens": 2})

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        text = self.options.prefix + request["text"]
        encoding = self.tokenizer.encode(text, truncate=request["truncate"])
        count = int(request.get("max_new_tokens", min(self.options.max_new_tokens, self.most)))
        return ModelInputs([self.tokenizer.tensors(encoding)], count)

    def forward(self, samples: Sequence[ModelInputs]) -> list[list[Tensor]]:
        """Return the tokens of each text; those of equal lengths are generated together."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, sample in enumerate(samples):
            groups[len(sample.rows[0]["input_ids"]), sample.context].append(place)
        found: dict[int, Tensor] = {}
        for (_, count), places in groups.items():
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise HandlerError(OUT_OF_TIME)
            rows = [samples[place].rows[0] for place in places]
            inputs = {n: torch.stack([r[n] for r in rows]).to(self.device) for n in rows[0]}
            with torch.inference_mode():
                texts = self.engine.module.generate(
                    **inputs,
                    **self.generation,
                    max_new_tokens=count,
                    min_length=min(self.least, count),
                    stopping_criteria=StoppingCriteriaList([MaxTimeCriteria(left)]),
                )
            found.update(zip(places, texts.cpu(), strict=True))
        return [[found[place]] for place in range(len(samples))]

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        tokenizer, tokens = (
            self.tokenizer.tokenizer,
            output[0][1:].tolist(),
        )  # a start token is first
        end = next((place for place, token in enumerate(tokens) if token in self.ends), None)
        tokens = tokens if end is None else tokens[: end + 1]
        most = instance.sample.context
        reason = "eos" if end is not None else "length" if len(tokens) >= most else "time"
        return {
            "text": tokenizer.decode(tokens, skip_special_tokens=True),
            "finish_reason": reason,
            "tokens": len(instance.sample.rows[0]["input_ids"]),
            "completion_tokens": len(tokens),
        }

    def limits(self) -> dict[str, Any]:
        return {**super().limits(), "max_new_tokens_limit": self.most}

    def output_schema(self) -> dict[str, Any]:
        count = {"type": "integer", "minimum": 0}
        fields = {
            "text": {"type": "string"},
            "finish_reason": {"enum": ["eos", "length", "time"]},
            "tokens": count,
            "completion_tokens": count,
        }
        return {"type": "object", "properties": fields, "required": list(fields)}


def listed(ids: Any) -> list[int]:
    """The ids of special tokens, of which a configuration may have one, several or none."""
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
