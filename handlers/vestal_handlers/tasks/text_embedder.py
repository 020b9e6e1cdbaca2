"""Vectors of texts by a pretrained model: one for a sentence, or one for each token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import normalize

from vestal_handlers.requests.request import Instance
from vestal_handlers.tasks.pretrained_text import PretrainedText, PretrainedTextOptions

_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
_MODES |= {"pooling_mode_max_tokens": "max", "pooling_mode_lasttoken": "last"}


@dataclass(frozen=True, kw_only=True)
class TextEmbedderOptions(PretrainedTextOptions):
    """
    Attributes:
        pooling: how the vectors of the tokens become one; none: they do not. None: as in the folder
            of sentence-transformers, else mean.
        normalized: whether the vector has the length 1. None: as in the folder of
            sentence-transformers, else not.
    """

    pooling: Literal["mean", "first", "max", "last", "none"] | None = None
    normalized: bool | None = None


class TextEmbedder(PretrainedText):
    """Predicts `{"embedding": [...], "tokens": number}`; without pooling, a list for each token."""

    auto_class = "AutoModel"
    options_type = TextEmbedderOptions
    options: TextEmbedderOptions

    def setup(self) -> None:
        super().setup()
        pooling, normalized = self._of_folder()
        own = self.options
        self.pooling = pooling if own.pooling is None else own.pooling
        self.normalized = normalized if own.normalized is None else own.normalized

    def head(self, output: Mapping[str, Tensor], row: Mapping[str, Tensor]) -> Tensor:
        """One vector [size], or one for each token [T, size]."""
        vectors = output["last_hidden_state"].float()
        pooled = {
            "mean": lambda: vectors.mean(0),
            "first": lambda: vectors[0],
            "max": lambda: vectors.amax(0),
            "last": lambda: vectors[-1],
            "none": lambda: vectors,
        }[self.pooling]()
        return normalize(pooled, dim=-1) if self.normalized else pooled

    def encode(self, output: list[Tensor], instance: Instance) -> dict[str, Any]:
        tokens = len(instance.sample.rows[0]["input_ids"])
        return {"embedding": output[0].tolist(), "tokens": tokens}

    def output_schema(self) -> dict[str, Any]:
        vector: dict[str, Any] = {"type": "array", "items": {"type": "number"}}
        if self.pooling == "none":
            vector = {"type": "array", "items": vector}
        fields = {"embedding": vector, "tokens": {"type": "integer", "minimum": 1}}
        return {"type": "object", "properties": fields, "required": list(fields)}

    def _of_folder(self) -> tuple[str, bool]:
        """Pooling and normalization in the folder of sentence-transformers.

        Raises:
            ValueError: it has a step that is not supported.
        """
        if not (self.model_dir / "modules.json").is_file():
            return "mean", False
        modules = json.loads((self.model_dir / "modules.json").read_text("utf-8"))
        kinds = {each["type"].rpartition(".")[2]: each["path"] for each in modules}
        if unknown := kinds.keys() - {"Transformer", "Pooling", "Normalize"}:
            raise ValueError(f"modules.json has {', '.join(unknown)}, which is not supported")
        if "Pooling" not in kinds:
            return "none", "Normalize" in kinds
        file = self.model_dir / kinds["Pooling"] / "config.json"
        config = json.loads(file.read_text("utf-8"))
        modes = [
            mode for mode in config if mode.startswith("pooling_mode_") and config[mode] is True
        ]
        if len(modes) != 1 or modes[0] not in _MODES:
            raise ValueError(f"{file.name} of the pooling has {', '.join(modes)}, not supported")
        return _MODES[modes[0]], "Normalize" in kinds
