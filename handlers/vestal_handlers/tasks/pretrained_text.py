"""The base of tasks on texts with a pretrained model: the request, and its tokens."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar

from torch import Tensor

from vestal_handlers.errors import InputError, first_line
from vestal_handlers.options import Options, number
from vestal_handlers.pretrained import load_tokenizer, most_tokens
from vestal_handlers.requests.charsets import text_of
from vestal_handlers.requests.fields import parse_fields
from vestal_handlers.requests.inference_api import INPUTS, request_schema
from vestal_handlers.requests.request import Instance
from vestal_handlers.requests.schema import validate
from vestal_handlers.requests.schema_parts import TEXT
from vestal_handlers.tasks.pretrained_task import ModelInputs, PretrainedTask
from vestal_handlers.text import padding
from vestal_handlers.text.tokens import TextTokenizer, Truncate

logger = logging.getLogger(__name__)

_UNKNOWN_LIMIT = 2048
"""Tokens, for a model that states no limit."""


@dataclass(frozen=True, kw_only=True)
class PretrainedTextOptions(Options):
    """
    Attributes:
        truncate: what happens to a text with too many tokens, unless the request says it: error,
            or cut off its right or left end.
        max_tokens: tokens of one input, special ones included; None: what the model can process.
        max_chars: characters of all fields of one input, before they are tokenized.
        pad: compute texts of different lengths together, if the model is verified to predict the
            same as for each of them alone; otherwise only texts of equal lengths.
    """

    truncate: Truncate = "error"
    max_tokens: int | None = number(None, at_least=8)
    max_chars: int = number(100_000, at_least=1)
    pad: bool = True


class PretrainedText(PretrainedTask):
    """A task adds `auto_class` and `encode`; if it needs more than a text, `texts`, `fields`,
    `required`, `inputs_of` and `example`.

    Attributes:
        texts: the names of the fields that are inputs of the model.
        token_outputs: the outputs of the model that have one item for each token.
    """

    options_type = PretrainedTextOptions
    options: PretrainedTextOptions
    rows_are_instances: ClassVar[bool] = True
    input_field: ClassVar[str | None] = "text"
    texts: ClassVar[Sequence[str]] = ("text",)
    token_outputs: ClassVar[Collection[str]] = ()

    def setup(self) -> None:
        super().setup()
        tokenizer = load_tokenizer(self.model_dir)
        known = most_tokens(self.model_dir, self.model_config, tokenizer)
        own = self.options.max_tokens
        if own is not None and known is not None and own > known:
            raise ValueError(f"handler.max_tokens is {own}, but the model processes only {known}")
        name = "the model's limit" if own is None and known else "handler.max_tokens"
        limit = own or known or _UNKNOWN_LIMIT
        self.tokenizer = TextTokenizer(tokenizer, limit, name, self._inputs(tokenizer))
        self.pads = self.options.pad and self._pads_exactly()

    def batches(self, rows: Sequence[Mapping[str, Tensor]]) -> list[list[int]]:
        if not self.pads:
            return super().batches(rows)
        lengths = [len(row["input_ids"]) for row in rows]
        return padding.batches(lengths, self.options.max_forward)

    def forward_rows(self, rows: Sequence[Mapping[str, Tensor]]) -> Sequence[Mapping[str, Tensor]]:
        if not self.pads:
            return super().forward_rows(rows)
        outputs = super().forward_rows(padding.padded(rows, self.model_config.pad_token_id))
        names = self.token_outputs
        return [
            padding.trimmed(output, len(row["input_ids"]), names)
            for output, row in zip(outputs, rows, strict=True)
        ]

    def decode(self, instance: Instance) -> ModelInputs:
        """Read the fields of a request, which replace its payload, and tokenize its texts."""
        instance.payload = self._request(instance)
        return self.inputs_of(instance.payload)

    def fields(self) -> dict[str, Any]:
        """JSON Schemas of the fields of a request besides `texts` and `truncate`, by name."""
        return {}

    def required(self) -> list[str]:
        """The fields that every request must have. If it is one, the body may be only its text."""
        return ["text"]

    def inputs_of(self, request: dict[str, Any]) -> ModelInputs:
        """Tokenize the texts of a valid request."""
        encoding = self.tokenizer.encode(request["text"], truncate=request["truncate"])
        return ModelInputs([self.tokenizer.tensors(encoding)], request)

    def example_input(self) -> ModelInputs:
        return self.inputs_of({"truncate": "right", **self.example()})

    def example(self) -> dict[str, Any]:
        return {"text": "The quick brown fox jumps over the lazy dog."}

    def input_schema(self) -> dict[str, Any]:
        own = self._object_schema()
        text = [TEXT] if len(self.required()) == 1 else []
        return {"anyOf": [*text, own, request_schema(own, self.texts)]}

    def limits(self) -> dict[str, Any]:
        own = {"max_tokens": self.tokenizer.limit, "max_chars": self.options.max_chars}
        return {**super().limits(), **own}

    def _pads_exactly(self) -> bool:
        config, inputs = self.model_config, self.tokenizer.inputs
        if config.model_type not in padding.ENCODERS or "attention_mask" not in inputs:
            return False
        if config.pad_token_id is None:
            return False
        rows = padding.example_rows(inputs, config.vocab_size, self.tokenizer.limit)
        try:
            return padding.is_exact(
                super().forward_rows, rows, config.pad_token_id, self.token_outputs
            )
        except Exception as error:  # an engine that takes only inputs of some shapes
            logger.info("only texts of equal lengths are computed together: %s", first_line(error))
            return False

    def _inputs(self, tokenizer: Any) -> frozenset[str]:
        """The names that the model takes; a tokenizer of another class may have more."""
        names = set(tokenizer.model_input_names)
        if self.engine.module is not None:
            names &= signature(self.engine.module.forward).parameters.keys()
        return frozenset(names)

    def _request(self, instance: Instance) -> dict[str, Any]:
        payload = instance.payload
        if isinstance(payload, bytes | bytearray):
            payload = text_of(payload, instance.request.headers, "the text")
        if isinstance(payload, str) and len(self.required()) == 1:
            payload = {self.required()[0]: payload}
        if not isinstance(payload, Mapping):
            names = " and ".join(map(repr, self.required()))
            raise InputError(415, f"expected an object with {names}")
        schema = self._object_schema()
        request = parse_fields(payload, schema["properties"]) if instance.form else dict(payload)
        count = sum(map(_char_count, request.values()))
        if count > self.options.max_chars:
            most = f"at most {self.options.max_chars:,} (handler.max_chars)"
            raise InputError(413, f"the input has {count:,} characters, {most}")
        validate(request, schema if INPUTS not in request else self.input_schema(), "the request")
        return {"truncate": self.options.truncate, **request}

    def _object_schema(self) -> dict[str, Any]:
        texts, sides = dict.fromkeys(self.texts, TEXT), {"enum": ["error", "right", "left"]}
        return {
            "type": "object",
            "properties": {**texts, **self.fields(), "truncate": sides},
            "required": self.required(),
            "additionalProperties": False,
        }


def _char_count(value: Any) -> int:
    """The characters of a text, or of a list of texts."""
    texts = value if isinstance(value, list) else [value]
    return sum(len(text) for text in texts if isinstance(text, str))
