"""A folder that transformers or peft has saved: the names of its files, and its configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vestal.errors import UsageError

CONFIG, ADAPTER = "config.json", "adapter_config.json"
WEIGHTS = "model.safetensors"
TOKENIZER, PROCESSOR = "tokenizer.json", "preprocessor_config.json"
# The vocabularies that transformers converts to tokenizer.json.
SLOW_TOKENIZERS = (
    *("vocab.txt", "vocab.json", "spiece.model"),
    *("sentencepiece.bpe.model", "tokenizer.model", "source.spm"),
)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that transformers or peft has saved."""
    return any((path / name).is_file() for name in (CONFIG, ADAPTER))


def model_folder(folder: Path, base: Path | None) -> Path:
    """The folder with config.json: that of the base for an adapter.

    Raises:
        UsageError: an adapter without its base, or a base without an adapter.
    """
    adapter = (folder / ADAPTER).is_file()
    if not adapter and base is not None:
        raise UsageError(f"{folder} is not an adapter, so it has no --base")
    if not adapter or ((folder / CONFIG).is_file() and base is None):
        return folder
    if base is None or not (base / CONFIG).is_file():
        name = read_json(folder / ADAPTER).get("base_model_name_or_path")
        raise UsageError(
            f"{folder} is an adapter: pass the folder of the model that it was trained for "
            f"({name}) with --base FOLDER"
        )
    return base


def labels_of(folder: Path) -> list[str] | None:
    """Return the labels of a classifier in the order of its classes; None for other models.

    Raises:
        ValueError: transformers cannot read config.json.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds of exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{CONFIG} cannot be read by transformers: {reason[:300]}") from None
    if not any("Classification" in name for name in config.architectures or ()):
        return None
    return [config.id2label[index] for index in range(len(config.id2label))]


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object; raises UsageError."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{file} is not a JSON object")
    return content
