"""The vectors of a text's tokens as one vector."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from vestal_handlers.options import Options

Pooling = Literal["mean", "first", "max", "last", "none"]
_MODES: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True, kw_only=True)
class PoolingOptions(Options):
    """
    Attributes:
        pooling: how the vectors of the tokens become one; none: they do not. None: as in the folder
            of sentence-transformers, else mean.
        normalize: whether the vector gets the length 1, unless the request has its own. None: as in
            the folder of sentence-transformers, else not.
    """

    pooling: Pooling | None = None
    normalize: bool | None = None


def pool(vectors: Tensor, pooling: Pooling) -> Tensor:
    """Vectors [T, size] to one [size]; unchanged for none."""
    match pooling:
        case "mean":
            return vectors.mean(0)
        case "first":
            return vectors[0]
        case "max":
            return vectors.amax(0)
        case "last":
            return vectors[-1]
        case "none":
            return vectors


def pooling_of_folder(folder: Path) -> tuple[Pooling, bool]:
    """Pooling and normalization in a folder of sentence-transformers; mean and not in another.

    Raises:
        ValueError: it has a step that is not supported.
    """
    if not (folder / "modules.json").is_file():
        return "mean", False
    modules = json.loads((folder / "modules.json").read_text("utf-8"))
    kinds = {each["type"].rpartition(".")[2]: each["path"] for each in modules}
    if unknown := kinds.keys() - {"Transformer", "Pooling", "Normalize"}:
        raise ValueError(f"modules.json has {', '.join(unknown)}, which is not supported")
    if "Pooling" not in kinds:
        return "none", "Normalize" in kinds
    file = folder / kinds["Pooling"] / "config.json"
    config = json.loads(file.read_text("utf-8"))
    modes = [mode for mode in config if mode.startswith("pooling_mode_") and config[mode] is True]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise ValueError(f"{file.name} of the pooling has {', '.join(modes)}, not supported")
    return _MODES[modes[0]], "Normalize" in kinds
