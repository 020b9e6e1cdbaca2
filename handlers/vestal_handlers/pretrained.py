"""Load a model from a folder that transformers has saved.

Nothing is unpickled, no code in the folder is run, and no hub is contacted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils import logging as transformers_logging

_OFFSET = {"camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta"}
_OFFSET |= {"roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"}


def load_model(folder: Path, auto_class: str) -> Any:
    """Load the model of a folder, fp32, in eval mode on the CPU.

    Args:
        auto_class: the class of transformers that chooses the architecture, such as
            `AutoModelForSequenceClassification`.

    Raises:
        ValueError: the weights do not fit config.json, or the architecture is unknown.
        OSError: a file is missing.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"no config.json in {folder}, the folder of the weights")
    # In a worker's log, a progress bar would take one line per step.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model, report = getattr(transformers, auto_class).from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
    )
    # transformers only warns about missing weights, and fills them with random values.
    wrong = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    wrong.pop("unexpected_keys", None)
    if wrong:
        raise ValueError(f"the weights do not fit config.json: {wrong}"[:500])
    return model.eval()


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a folder.

    Raises:
        FileNotFoundError: there is no tokenizer.json.
    """
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"no tokenizer.json in {folder}, the folder of the weights")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    # Threads share it: any call that changes these settings would fail in another thread.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def load_config(folder: Path) -> Any:
    """Load config.json of a folder; raises OSError or ValueError."""
    return transformers.AutoConfig.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )


def most_tokens(folder: Path, config: Any, tokenizer: Any) -> int | None:
    """The number of tokens that a model can process; None if nothing limits it.

    It is the smallest of the model's positions, its tokenizer's `model_max_length`, and the
    `max_seq_length` of sentence-transformers.
    """
    limits = [tokenizer.model_max_length]
    positions = getattr(config, "max_position_embeddings", None)
    if positions and positions > 0:
        # The positions of these models begin after that of the padding token.
        offset = (config.pad_token_id or 0) + 1 if config.model_type in _OFFSET else 0
        limits.append(positions - offset)
    sentences = folder / "sentence_bert_config.json"
    if sentences.is_file():
        limits.append(json.loads(sentences.read_text("utf-8")).get("max_seq_length"))
    # A tokenizer without a limit has one of 10 to the power of 30.
    return min((each for each in limits if each and each < 10**9), default=None)
