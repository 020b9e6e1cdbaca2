"""Text classification over hashed words: text -> vector -> class probabilities -> labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vestal_handlers.errors import InputError
from vestal_handlers.model_files import load_transform
from vestal_handlers.options import number
from vestal_handlers.requests.charsets import text_of
from vestal_handlers.requests.fields import parse_fields
from vestal_handlers.requests.request import Instance
from vestal_handlers.requests.schema import FLOAT32, validate
from vestal_handlers.tasks.classifier import TOP_K, Classifier, ClassifierOptions
from vestal_handlers.text.hashing import TextTransform

EXAMPLE = "for word in text.split():"


@dataclass(frozen=True, kw_only=True)
class TextClassifierOptions(ClassifierOptions):
    """
    Attributes:
        max_chars: the maximum length of a text in characters.
        explain_words: the number of words in an explanation, the most important first.
    """

    max_chars: int = number(100_000, at_least=1)
    explain_words: int = number(100, at_least=1)


class TextClassifier(Classifier):
    """Classifies a text (the body, a JSON string, `{"text": ...}`) or a vector of its features."""

    options_type = TextClassifierOptions
    options: TextClassifierOptions
    rows_are_instances: ClassVar[bool] = True

    def setup(self) -> None:
        super().setup()
        self.transform: TextTransform = load_transform(self.model_dir, default=TextTransform())

    def example_input(self) -> Tensor:
        return self.transform.example_input()

    def decode(self, instance: Instance) -> Tensor:
        """Decode a text or a vector to float32 [size]."""
        if instance.form and instance.fields:
            instance.payload = parse_fields(instance.fields, {"top_k": TOP_K})
        text, vector = self._text_or_vector(instance)
        if vector is not None:
            return torch.tensor(vector, dtype=torch.float32)
        return self.transform(text)

    def explain(self, sample: Tensor, instance: Instance) -> dict[str, Any]:
        """Return the prediction and the contribution of each word, or of each value of a vector.

        The baseline is the empty text. `rest` is the sum for words beyond `explain_words`.
        """
        prediction, attribution = self.attribute(sample, self.transform.example_input(), instance)
        text, vector = self._text_or_vector(instance)
        if vector is not None:
            return {**prediction, "attributions": attribution.values.tolist()}
        words = self.transform.split(text)
        total: dict[str, float] = defaultdict(float)
        for word, share in zip(
            words, self.transform.distribute(words, attribution.values), strict=True
        ):
            total[word] += share
        count = Counter(words)
        ranked = sorted(total, key=lambda word: -abs(total[word]))
        named, rest = ranked[: self.options.explain_words], ranked[self.options.explain_words :]
        return {
            **prediction,
            "attributions": [
                {"word": word, "count": count[word], "attribution": total[word]} for word in named
            ],
            "rest": sum(total[word] for word in rest),
        }

    def input_schema(self) -> dict[str, Any]:
        text = {"type": "string", "minLength": 1, "maxLength": self.options.max_chars}
        size = self.transform.size
        vector = {"type": "array", "items": FLOAT32, "minItems": size, "maxItems": size}
        objects = [
            {
                "type": "object",
                "properties": {name: schema, "top_k": TOP_K, "target": self.target_schema()},
                "required": [name],
                "additionalProperties": False,
            }
            for name, schema in (("text", text), ("vector", vector))
        ]
        return {"anyOf": [text, vector, *objects]}

    def example(self) -> dict[str, str]:
        return {"text": EXAMPLE}

    def limits(self) -> dict[str, Any]:
        return {**super().limits(), "max_chars": self.options.max_chars}

    def _text_or_vector(self, instance: Instance) -> tuple[str, list[float] | None]:
        """The validated payload: a text and None, or an empty text and a vector."""
        payload = instance.payload
        if isinstance(payload, bytes | bytearray):
            payload = text_of(payload, instance.request.headers, "the text")
        text = payload.get("text") if isinstance(payload, dict) else payload
        if isinstance(text, str) and len(text) > self.options.max_chars:
            raise InputError(
                413,
                f"a text of {len(text):,} characters, at most {self.options.max_chars:,} "
                "(handler.max_chars)",
            )
        validate(payload, self.input_schema(), "the input")
        if isinstance(text, str):
            if not text.strip():
                raise InputError(422, "the text has no words, only whitespace")
            return text, None
        return "", payload["vector"] if isinstance(payload, dict) else payload
