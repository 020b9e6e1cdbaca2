"""Generate texts with an encoder and a decoder; those of one length and settings together."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Encoding
from torch import Tensor
from transformers import MaxTimeCriteria, StoppingCriteriaList

from vestal_handlers.errors import OUT_OF_TIME, HandlerError, InputError
from vestal_handlers.options import number
from vestal_handlers.requests.schema_parts import COUNT, TEXT, at_least_one, object_of
from vestal_handlers.text.languages import LanguageOptions, Languages

Settings = tuple[tuple[str, Any], ...]
"""The arguments of `generate` for one text, by name."""
PREDICTION_SCHEMA = object_of(
    {
        "text": TEXT,
        "finish_reason": {"enum": ["eos", "length", "time"]},
        "tokens": COUNT,
        "completion_tokens": COUNT,
    }
)


@dataclass(frozen=True, kw_only=True)
class DecodingOptions(LanguageOptions):
    """
    Attributes:
        prefix: stands before each text, such as "summarize: " for T5.
        max_new_tokens: the default for a request.
        max_new_tokens_limit: the maximum that a request may set.
        num_beams: beams of the search, unless the request has its own; None: as in
            generation_config.json.
        max_beams: the maximum that a request may set; a text takes that many rows of a forward
            pass.
    """

    prefix: str = ""
    max_new_tokens: int = number(128, at_least=1)
    max_new_tokens_limit: int = number(512, at_least=1)
    num_beams: int | None = number(None, at_least=1, at_most=16)
    max_beams: int = number(8, at_least=1, at_most=64)


class EncoderDecoder:
    """A model of transformers with an encoder and a decoder, and its tokenizer.

    Raises:
        ValueError: the module is None, because another engine runs, or an option does not fit.
    """

    def __init__(self, module: Any, tokenizer: Any, options: DecodingOptions) -> None:
        if module is None:
            raise ValueError("text to text runs in transformers, not in another engine")
        self._module, self._tokenizer, config = module, tokenizer, module.generation_config
        # The decoder has as many positions as the encoder, and starts with one token.
        positions = getattr(module.config, "max_position_embeddings", None)
        most = options.max_new_tokens_limit
        self._most = min(most, positions - 1) if positions else most
        self._beams = options.num_beams or config.num_beams or 1
        self._most_beams = max(options.max_beams, self._beams)
        self._new_tokens = min(options.max_new_tokens, self._most)
        config.max_length = None  # max_new_tokens takes its place, and transformers would warn
        self._least = config.min_length or 0
        self._ends = set(_listed(config.eos_token_id))
        self._languages = Languages(tokenizer, options, config)

    def fields(self) -> dict[str, Any]:
        """JSON Schemas of the fields of a request, named as the arguments of `generate`."""
        return {**self._numbers(), **self._languages.fields()}

    def _numbers(self) -> dict[str, Any]:
        return {
            "max_new_tokens": at_least_one(self._most),
            "min_new_tokens": {"type": "integer", "minimum": 0, "maximum": self._most},
            "num_beams": at_least_one(self._most_beams),
            "length_penalty": {"type": "number", "minimum": -10, "maximum": 10},
            "no_repeat_ngram_size": {"type": "integer", "minimum": 0, "maximum": self._most},
            "repetition_penalty": {"type": "number", "minimum": 0.1, "maximum": 10},
        }

    def limits(self) -> dict[str, int]:
        return {"max_new_tokens_limit": self._most, "max_beams": self._most_beams}

    def example(self) -> dict[str, str]:
        """The fields of an example that every request must have."""
        return self._languages.example()

    def inputs(
        self, tensors: Mapping[str, Tensor], encoding: Encoding, request: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The inputs of the model, int64 [T] each, for the language of the request."""
        return self._languages.inputs(tensors, encoding, request)

    def settings(self, request: Mapping[str, Any]) -> Settings:
        """The settings of a valid request.

        Raises:
            InputError: 422, two fields do not fit each other, or there is no language.
        """
        settings = {"max_new_tokens": self._new_tokens, "num_beams": self._beams}
        for name, schema in self._numbers().items():
            if name in request:
                settings[name] = (int if schema["type"] == "integer" else float)(request[name])
        least, most = settings.get("min_new_tokens", 0), settings["max_new_tokens"]
        if least > most:
            raise InputError(
                422, f"field 'min_new_tokens' is {least}, above max_new_tokens, {most}"
            )
        if "length_penalty" in request and settings["num_beams"] == 1:
            raise InputError(
                422,
                "field 'length_penalty' has no effect without beams; set num_beams, or remove it",
            )
        return tuple(sorted([*settings.items(), *self._languages.settings(request)]))

    def generate(
        self,
        texts: Sequence[tuple[Mapping[str, Tensor], Settings]],
        device: torch.device,
        deadline: float,
        max_rows: int,
    ) -> list[Tensor]:
        """Generate the tokens of each text, on the CPU; the first one is a start token.

        Args:
            texts: the inputs of the model [T], and the settings.
            deadline: time.monotonic() at which texts end early.
            max_rows: rows of a forward pass; each beam takes one.

        Raises:
            HandlerError: the deadline has passed before all texts were begun.
        """
        groups: dict[tuple[int, Settings], list[int]] = defaultdict(list)
        for place, (inputs, settings) in enumerate(texts):
            groups[len(inputs["input_ids"]), settings].append(place)
        found: dict[int, Tensor] = {}
        for (_, settings), places in groups.items():
            size = max(1, max_rows // dict(settings)["num_beams"])
            for start in range(0, len(places), size):
                part = places[start : start + size]
                rows = self._generate(
                    [texts[place][0] for place in part], settings, device, deadline
                )
                found.update(zip(part, rows, strict=True))
        return [found[place] for place in range(len(texts))]

    def _generate(
        self,
        rows: Sequence[Mapping[str, Tensor]],
        settings: Settings,
        device: torch.device,
        deadline: float,
    ) -> Tensor:
        left = deadline - time.monotonic()
        if left <= 0:
            raise HandlerError(OUT_OF_TIME)
        chosen = dict(settings)
        if "min_new_tokens" not in chosen:
            chosen["min_length"] = min(self._least, chosen["max_new_tokens"])
        with torch.inference_mode():
            tokens: Tensor = self._module.generate(
                **{name: torch.stack([row[name] for row in rows]).to(device) for name in rows[0]},
                **chosen,
                do_sample=False,
                stopping_criteria=StoppingCriteriaList([MaxTimeCriteria(left)]),
            )
        return tokens.cpu()

    def completion(
        self, output: Tensor, inputs: Mapping[str, Tensor], settings: Settings
    ) -> dict[str, Any]:
        """The generated text, why it ends, and the numbers of tokens."""
        tokens = output[1:].tolist()
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        tokens = tokens if end is None else tokens[: end + 1]
        most = dict(settings)["max_new_tokens"]
        reason = "eos" if end is not None else "length" if len(tokens) >= most else "time"
        return {
            "text": self._tokenizer.decode(tokens, skip_special_tokens=True),
            "finish_reason": reason,
            "completion_tokens": len(tokens),
            "tokens": len(inputs["input_ids"]),
        }


def _listed(ids: Any) -> list[int]:
    """The ids of special tokens, of which a configuration may have one, several or none."""
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
