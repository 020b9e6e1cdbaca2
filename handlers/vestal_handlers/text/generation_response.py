"""Convert the result for a prompt to a prediction: generated text, or the prompt's score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vestal_handlers.text.generation import GeneratedSequence
from vestal_handlers.text.generation_request import Prompt
from vestal_handlers.text.language_model import LanguageModel


@dataclass(frozen=True)
class GenerationOutput:
    """The generated sequence of one prompt or, with "score", its log-probabilities."""

    prompt: Prompt
    row: GeneratedSequence | None = None
    logprobs: Sequence[float] = ()


def prediction_of(output: GenerationOutput, language: LanguageModel) -> dict[str, Any]:
    """A prediction that matches `PREDICTION_SCHEMA`."""
    prompt, row = output.prompt, output.row
    prediction: dict[str, Any] = {"prompt_tokens": len(prompt.tokens)}
    if prompt.dropped is not None:
        prediction["truncated_tokens"] = prompt.dropped
    if row is None:
        return {
            "tokens": [language.piece(token) for token in prompt.tokens],
            "token_ids": list(prompt.tokens),
            # The first token has no tokens before it.
            "logprobs": [None, *output.logprobs],
            **prediction,
        }
    if prompt.sampling:
        prediction["seed"] = prompt.sampling.seed
    text = language.text(row.tokens)
    ends = [end for stop in prompt.stop if (end := text.find(stop)) >= 0]
    return {
        "text": text[: min(ends, default=len(text))],
        "finish_reason": row.finish_reason,
        "completion_tokens": len(row.tokens),
        **prediction,
    }


_COUNT = {"type": "integer", "minimum": 0}
_PROMPT = {"prompt_tokens": _COUNT, "truncated_tokens": _COUNT}
_GENERATED = {
    "text": {"type": "string"},
    "finish_reason": {"enum": ["eos", "stop", "length", "time"]},
    "completion_tokens": _COUNT,
    "seed": _COUNT,
    **_PROMPT,
}
_SCORED = {
    "tokens": {"type": "array", "items": {"type": "string"}},
    "token_ids": {"type": "array", "items": _COUNT},
    "logprobs": {"type": "array", "items": {"type": ["number", "null"]}},
    **_PROMPT,
}
PREDICTION_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object",
            "properties": properties,
            "required": [n for n in properties if n not in ("seed", "truncated_tokens")],
            "additionalProperties": False,
        }
        for properties in (_GENERATED, _SCORED)
    ]
}
