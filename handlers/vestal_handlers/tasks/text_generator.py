"""Text generation: a prompt -> tokens -> the decoding loop -> text; or the prompt's score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from vestal_handlers.base import BatchHandler
from vestal_handlers.device import response_timeout
from vestal_handlers.errors import RequestFailure
from vestal_handlers.requests.charsets import text_of
from vestal_handlers.requests.inference_api import request_schema
from vestal_handlers.requests.request import InferenceRequest, Instance
from vestal_handlers.text import language_model
from vestal_handlers.text.generation import GeneratedSequence, generate
from vestal_handlers.text.generation_request import (
    Prompt,
    TextGeneratorOptions,
    object_schema,
    read_prompt,
)
from vestal_handlers.text.generation_response import (
    PREDICTION_SCHEMA,
    GenerationOutput,
    prediction_of,
)
from vestal_handlers.text.language_model import LanguageModel
from vestal_handlers.text.sampling import Sampler
from vestal_handlers.text.scoring import score
from vestal_handlers.text.stops import StopMatcher


class TextGenerator(BatchHandler):
    """Generates `{"text", "finish_reason", "prompt_tokens", "completion_tokens"}`, or with "score"
    `{"tokens", "token_ids", "logprobs", "prompt_tokens"}`; see docs/guides/generate-text.md."""

    options_type = TextGeneratorOptions
    options: TextGeneratorOptions
    engine: LanguageModel
    input_field: ClassVar[str | None] = "prompt"

    def load_engine(self, artifact: Path) -> LanguageModel:
        return language_model.load(artifact, self.device, self.options.precision)

    def setup(self) -> None:
        options = self.options
        if options.max_new_tokens > options.max_new_tokens_limit:
            raise ValueError(
                f"handler.max_new_tokens is {options.max_new_tokens}, more than "
                f"handler.max_new_tokens_limit, {options.max_new_tokens_limit}"
            )
        if options.chat and self.engine.chat is None:
            raise ValueError("handler.chat needs a model with a chat template")
        # After responseTimeout TorchServe kills the worker, and every request fails.
        self.max_seconds = self.options.max_seconds or 0.8 * response_timeout(self.config)
        self.generation_deadline = float("inf")

    def example_input(self) -> Prompt:
        return Prompt(tokens=(self.engine.start or 0,), max_new_tokens=2)

    def decode(self, instance: Instance) -> Prompt:
        payload = instance.payload
        if isinstance(payload, bytes | bytearray):
            payload = text_of(payload, instance.request.headers, "the prompt")
        return read_prompt(payload, instance.form, self.engine, self.options)

    def inference(self, requests: list[InferenceRequest]) -> None:
        # One deadline for the whole batch, even if it is split.
        self.generation_deadline = self.started + self.max_seconds
        super().inference(requests)

    @torch.inference_mode()
    def forward(self, samples: Sequence[Prompt]) -> list[GenerationOutput | RequestFailure]:
        rows = {i: self._row(sample) for i, sample in enumerate(samples) if not sample.score}
        scored = [i for i, sample in enumerate(samples) if sample.score]
        engine, max_cells = self.engine, self.options.max_cache_tokens
        texts = [samples[i].tokens for i in scored]
        logprobs = score(engine.model, texts, max_cells, self.generation_deadline)
        generate(
            engine.model,
            list(rows.values()),
            engine.context,
            engine.eos,
            max_cells,
            self.generation_deadline,
        )
        outputs: dict[int, GenerationOutput | RequestFailure] = {
            i: row.error or GenerationOutput(samples[i], row) for i, row in rows.items()
        }
        for i, result in zip(scored, logprobs, strict=True):
            outputs[i] = (
                result
                if isinstance(result, RequestFailure)
                else GenerationOutput(samples[i], logprobs=result)
            )
        return [outputs[i] for i in range(len(samples))]

    def _row(self, prompt: Prompt) -> GeneratedSequence:
        return GeneratedSequence(
            prompt=prompt.tokens,
            max_new_tokens=prompt.max_new_tokens,
            sampler=Sampler(prompt.sampling) if prompt.sampling else None,
            is_stopped=StopMatcher(prompt.stop, self.engine.decode) if prompt.stop else None,
        )

    def encode(self, output: GenerationOutput, instance: Instance) -> dict[str, Any]:
        return prediction_of(output, self.engine)

    def input_schema(self) -> dict[str, Any]:
        fields = ["prompt"] if self.engine.chat is None else ["prompt", "messages"]
        objects = [object_schema(self.options, field) for field in fields]
        inference_api = request_schema(objects[0], ["prompt"])
        return {"anyOf": [{"type": "string"}, *objects, inference_api]}

    def output_schema(self) -> dict[str, Any]:
        return PREDICTION_SCHEMA

    def example(self) -> dict[str, Any]:
        if self.options.chat:
            message = {"role": "user", "content": "What is the capital of France?"}
            return {"messages": [message], "max_new_tokens": 16}
        return {"prompt": "The quick brown fox", "max_new_tokens": 16}

    def limits(self) -> dict[str, Any]:
        names = [
            "max_new_tokens_limit",
            "max_prompt_chars",
            "max_stop",
            "max_stop_chars",
            "max_cache_tokens",
        ]
        return {
            **super().limits(),
            **{name: getattr(self.options, name) for name in names},
            "max_prompt_tokens": min(
                self.options.max_prompt_tokens or self.engine.context, self.engine.context
            ),
            "max_seconds": self.max_seconds,
            "context": self.engine.context,
        }
